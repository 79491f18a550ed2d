//! What the kernel leaves to the file system about other users.

use super::*;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A shell line as user and group 1, without any right of root's.
fn as_other(line: &str) -> std::process::Output {
    Command::new("sh").args(["-c", line]).uid(1).gid(1).output().unwrap()
}

#[test]
fn a_write_of_another_user_takes_the_set_id_bits_away_on_both_sides() {
    let mut pair = Pair::new();
    pair.serve_and_arm(1, 1);
    fs::set_permissions(pair.tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = pair.a.dir.join("file");
    for (what, line) in
        [("write", "echo more >>F"), ("truncate", "truncate -s 1 F"), ("emptied", ": >F"), ("preallocated", "fallocate -l 100000 F")]
    {
        fs::write(&file, "text").unwrap();
        chown(&file, Some(1), Some(1)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
        let done = as_other(&line.replace('F', file.to_str().unwrap()));
        assert!(done.status.success(), "{what}: {done:?}");
        // Asked for nothing but the mode, the kernel says what it believes, and what it would go by.
        let mode = Command::new("stat").args(["-c", "%a"]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&mode.stdout), "777\n", "{what}");
    }
    pair.assert_equal();
}
