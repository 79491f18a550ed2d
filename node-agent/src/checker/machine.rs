//! Is there processor, memory and disk left? Reads what the kernel says of this machine.

use nix::sys::statvfs::statvfs;
use std::fs::read_to_string;
use std::path::Path;
use std::time::Duration;
use tsugi_core::module::LoadOf;

/// Busy and all ticks of all processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    busy: u64,
    all: u64,
}

fn read(path: &str) -> Result<String, String> {
    read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))
}

/// `<load>`. `last` is what `cpu` compares with; nothing is known before the second look.
pub fn load(of: LoadOf, percent_max: u32, last: &mut Option<Ticks>) -> Result<Option<String>, String> {
    let (percent, what) = match of {
        LoadOf::Load => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let text = read("/proc/loadavg")?;
            let load = text.split_whitespace().next().and_then(|t| t.parse::<f64>().ok()).ok_or("/proc/loadavg is not understood")?;
            (load * 100.0 / cores as f64, format!("load average {load} on {cores} processors"))
        }
        LoadOf::Cpu => {
            let now = ticks(&read("/proc/stat")?).ok_or("/proc/stat is not understood")?;
            let Some(before) = last.replace(now) else { return Ok(None) };
            let all = now.all.saturating_sub(before.all);
            if all == 0 {
                return Ok(None);
            }
            (now.busy.saturating_sub(before.busy) as f64 * 100.0 / all as f64, "processors are busy".to_owned())
        }
        LoadOf::Pressure => (pressure("cpu")?, "of the last 10 s some task waited for a processor".to_owned()),
    };
    let said = format!("{percent:.0} % ({what})");
    if percent > f64::from(percent_max) { Err(format!("{said}, more than {percent_max} %")) } else { Ok(Some(said)) }
}

fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let all: Vec<u64> = line.split_whitespace().map_while(|t| t.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are counted in user already.
    let idle = all.get(3)? + all.get(4)?;
    let sum: u64 = all.iter().take(8).sum();
    Some(Ticks { busy: sum.saturating_sub(idle), all: sum })
}

/// Per cent of the last 10 s in which some task waited for it.
fn pressure(what: &str) -> Result<f64, String> {
    let path = format!("/proc/pressure/{what}");
    let text = read_to_string(&path).map_err(|_| format!("{path} is not there: this kernel has no pressure stall information (psi=1)"))?;
    avg10(&text).ok_or(format!("{path} is not understood"))
}

fn avg10(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix("some "))?;
    line.split_whitespace().find_map(|w| w.strip_prefix("avg10="))?.parse().ok()
}

/// `<memory>`.
pub fn memory(percent_min: Option<u32>, mb_min: Option<u64>, pressure_max: Option<u32>) -> Result<String, String> {
    let text = read("/proc/meminfo")?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    let (all, free) = kib("MemTotal").zip(kib("MemAvailable")).ok_or("/proc/meminfo is not understood")?;
    let (mb, percent) = (free / 1024, free as f64 * 100.0 / all.max(1) as f64);
    let mut said = format!("{mb} MB ({percent:.0} %) of memory available");
    if let Some(least) = percent_min.filter(|least| percent < f64::from(*least)) {
        return Err(format!("{said}, less than {least} %"));
    }
    if let Some(least) = mb_min.filter(|least| mb < *least) {
        return Err(format!("{said}, less than {least} MB"));
    }
    if let Some(most) = pressure_max {
        let waited = pressure("memory")?;
        said = format!("{said}; for {waited:.0} % of the last 10 s some task waited for memory");
        if waited > f64::from(most) {
            return Err(format!("{said}, more than {most} %"));
        }
    }
    Ok(said)
}

/// What must be free.
#[derive(Debug, Clone)]
pub struct DiskWanted {
    /// Any path on the file system.
    pub path: String,
    /// Per cent of its space.
    pub percent_min: Option<u32>,
    /// Megabytes of its space.
    pub mb_min: Option<u64>,
    /// Per cent of its inodes; a file system without a fixed number of them has always enough.
    pub inodes_percent_min: Option<u32>,
}

/// `<disk>`. A file system that does not answer in time is down; the look at it goes on by itself.
pub async fn disk(wanted: DiskWanted, timeout: Duration) -> Result<String, String> {
    let path = wanted.path.clone();
    match tokio::time::timeout(timeout, tokio::task::spawn_blocking(move || look(&wanted))).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(format!("{path} could not be looked at: {error}")),
        Err(_) => Err(format!("{path} does not answer within {timeout:?}")),
    }
}

fn look(wanted: &DiskWanted) -> Result<String, String> {
    let path = &wanted.path;
    let stat = statvfs(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
    let unit = stat.fragment_size().max(1);
    // What ordinary processes get, and the whole that is theirs: what `df` shows.
    let free = stat.blocks_available();
    let whole = stat.blocks() - stat.blocks_free() + free;
    let percent = if whole == 0 { 100.0 } else { free as f64 * 100.0 / whole as f64 };
    let mb = free.saturating_mul(unit) / (1024 * 1024);
    let said = format!("{path}: {mb} MB ({percent:.0} %) free");
    if let Some(least) = wanted.percent_min.filter(|least| percent < f64::from(*least)) {
        return Err(format!("{said}, less than {least} %"));
    }
    if let Some(least) = wanted.mb_min.filter(|least| mb < *least) {
        return Err(format!("{said}, less than {least} MB"));
    }
    if let Some(least) = wanted.inodes_percent_min.filter(|_| stat.files() > 0) {
        let inodes = stat.files_available() as f64 * 100.0 / stat.files() as f64;
        if inodes < f64::from(least) {
            return Err(format!("{path}: {inodes:.0} % of the inodes free, less than {least} %"));
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_understood() {
        let stat = "cpu  100 5 45 800 50 0 0 0 7 7\ncpu0 1 2 3 4\n";
        assert_eq!(ticks(stat), Some(Ticks { busy: 150, all: 1000 }));
        assert_eq!(ticks("intr 1"), None);
        assert_eq!(avg10("some avg10=12.34 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00"), Some(12.34));
        assert_eq!(avg10(""), None);
    }

    #[test]
    fn limits_decide_and_are_named() {
        assert!(memory(Some(1), Some(1), None).is_ok());
        let error = memory(None, Some(1 << 40), None).unwrap_err();
        assert!(error.contains("available, less than 1099511627776 MB"), "{error}");
        let mut last = None;
        assert!(load(LoadOf::Load, 100_000, &mut last).unwrap().is_some());
        assert_eq!(load(LoadOf::Cpu, 99, &mut last), Ok(None), "one look is no measure");
        let wanted = |path: &str, mb: u64| DiskWanted { path: path.into(), percent_min: None, mb_min: Some(mb), inodes_percent_min: None };
        assert!(look(&wanted("/", 0)).unwrap().starts_with("/: "));
        assert!(look(&wanted("/", 1 << 40)).unwrap_err().contains("less than 1099511627776 MB"));
        assert!(look(&wanted("/no/such/path", 0)).unwrap_err().contains("/no/such/path"));
    }
}
