//! Commands that scripts and checkers find on their PATH: `tsugi`, and `safekit` for those written for it.

use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Search path of scripts, behind the commands: theirs must not depend on how the agent was started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Words of the field's usual command line → ours: `-m MODULE` behind an order becomes the module's place, and an order
/// is given without waiting for its end, since the script may be what the end waits for.
const SAFEKIT: &str = r#"#!/bin/sh
# The orders and questions that module scripts and checkers give by this name, for tsugi.
verb=${1:-}
[ $# -gt 0 ] && shift
not_here() {
    echo "safekit $*: not known here. There is: start stop restart stopstart swap, prim, primforce, second [fullsync]," \
        "state [-v|-lq], waitstart waitstop waitstate, incloop resetloop checkloop, set get errd checker rules, log," \
        "printi printe; the rest is in \`tsugi help\`" >&2
    exit 2
}
case $verb in
set | get | errd | checker | rules) exec tsugi "$verb" "$@" ;;
incloop | resetloop | checkloop)
    exec tsugi loop "${verb%loop}" "$@" ;;
printi | printe)
    [ "${1:-}" = -m ] && SAFEMODULE=${2:-} && shift 2
    # Into the module's events; should the agent not take it, the script's own output is kept.
    tsugi "$verb" -m "${SAFEMODULE:-}" -- "$*" || echo "$*"
    exit 0
    ;;
start | stop | restart | stopstart | swap | state | prim | primforce | second | waitstart | waitstop | waitstate | log) ;;
*) not_here "$verb" ;;
esac
module=${SAFEMODULE:-}
who=
more=
while [ $# -gt 0 ]; do
    case $verb:$1 in
    *:-m) module=${2:-}; shift ;;
    *:-i) who=${2:-}; shift ;;
    state:-lq | state:-q) more=-q ;;
    state:-v) more=-v ;;
    second:fullsync) more=--full-sync ;;
    log:-s) more="-n ${2:-}"; shift ;;
    waitstate:[A-Z]*) more="$more $1" ;;
    *) not_here "$verb" "$1" ;;
    esac
    shift
done
case $verb in
state) exec tsugi state $more $module ;;
log) exec tsugi events "$module" ${more:--n 300} ;;
waitstart) exec tsugi wait-state "$module" ALONE PRIM SECOND UP ;;
waitstop) exec tsugi wait-state "$module" STOP ;;
waitstate) exec tsugi wait-state "$module" $more ;;
esac
exec tsugi "$verb" "$module" $more --no-wait ${who:+--by "$who"}
"#;

/// Directory of the commands in the agent's run directory.
pub fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("bin")
}

/// `PATH` of scripts and checkers.
pub fn path(run_dir: &Path) -> String {
    format!("{}:{PATH}", dir(run_dir).display())
}

/// Puts the commands there. `exe` is this program; `tsugi` is beside it.
pub fn offer(run_dir: &Path, exe: &Path) -> io::Result<()> {
    let dir = dir(run_dir);
    std::fs::create_dir_all(&dir)?;
    let tsugi = dir.join("tsugi");
    match std::fs::remove_file(&tsugi) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(exe.with_file_name("tsugi"), &tsugi)?,
    }
    let safekit = dir.join("safekit");
    std::fs::write(&safekit, SAFEKIT)?;
    std::fs::set_permissions(&safekit, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_usual_calls_become_ours() {
        let dir = tempfile::tempdir().unwrap();
        offer(dir.path(), Path::new("/nowhere/tsugi-agent")).unwrap();
        let bin = super::dir(dir.path());
        assert_eq!(std::fs::read_link(bin.join("tsugi")).unwrap(), Path::new("/nowhere/tsugi"));
        // Offered again by the next agent.
        offer(dir.path(), Path::new("/nowhere/tsugi-agent")).unwrap();
        std::fs::remove_file(bin.join("tsugi")).unwrap();
        std::fs::write(bin.join("tsugi"), "#!/bin/sh\necho \"$@\"\n").unwrap();
        std::fs::set_permissions(bin.join("tsugi"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let said = |words: &[&str]| {
            let out =
                Command::new(bin.join("safekit")).args(words).env("PATH", path(dir.path())).env("SAFEMODULE", "own").output().unwrap();
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_owned()
        };
        assert_eq!(said(&["set", "-r", "custom.a", "-v", "down", "-i", "me", "-m", "AM"]), "set -r custom.a -v down -i me -m AM");
        assert_eq!(said(&["stopstart", "-i", "custom.a", "-m", "AM"]), "stopstart AM --no-wait --by custom.a");
        assert_eq!(said(&["restart"]), "restart own --no-wait");
        assert_eq!(said(&["state", "-lq", "-m", "AM"]), "state -q AM");
        assert_eq!(said(&["printi", "-m", "AM", "hello there"]), "printi -m AM -- hello there");
        assert_eq!(said(&["state", "-v"]), "state -v own");
        assert_eq!(said(&["second", "fullsync", "-m", "AM"]), "second AM --full-sync --no-wait");
        assert_eq!(said(&["primforce"]), "primforce own --no-wait");
        assert_eq!(said(&["incloop", "-m", "AM", "-i", "me"]), "loop inc -m AM -i me");
        assert_eq!(said(&["resetloop"]), "loop reset");
        assert_eq!(said(&["checkloop"]), "loop check");
        assert_eq!(said(&["waitstate", "-m", "AM", "PRIM"]), "wait-state AM PRIM");
        assert_eq!(said(&["waitstop"]), "wait-state own STOP");
        assert_eq!(said(&["waitstart"]), "wait-state own ALONE PRIM SECOND UP");
        assert_eq!(said(&["log", "-s", "5"]), "events own -n 5");
        for (words, named) in [(&["dance"][..], "dance"), (&["swap", "nosync"], "swap nosync"), (&["forcestop", "-m", "AM"], "forcestop")] {
            let text = said(words);
            assert!(text.starts_with(&format!("safekit {named}: not known here. There is: start stop")), "{text}");
        }
    }
}
