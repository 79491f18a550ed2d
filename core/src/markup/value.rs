//! Times with units, and other values as they are written in a configuration.

use super::problem::{Expected, ProblemKind};
use super::tree::shorten;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// A unit of time as it is written after a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Microseconds, `us`.
    Us,
    /// Milliseconds, `ms`.
    Ms,
    /// Seconds, `s`.
    S,
    /// Minutes, `m`.
    M,
    /// Hours, `h`.
    H,
    /// Days, `d`.
    D,
}

/// Longest time a configuration may ask for: ten years. Keeps every sum of times far from overflow.
const TIME_MAX: Duration = Duration::from_secs(3650 * 86_400);

impl Unit {
    /// Every unit, largest first, as the manual lists them.
    pub const ALL: [Unit; 6] = [Unit::D, Unit::H, Unit::M, Unit::S, Unit::Ms, Unit::Us];

    /// As written.
    pub fn text(self) -> &'static str {
        match self {
            Unit::Us => "us",
            Unit::Ms => "ms",
            Unit::S => "s",
            Unit::M => "m",
            Unit::H => "h",
            Unit::D => "d",
        }
    }

    fn micros(self) -> u64 {
        match self {
            Unit::Us => 1,
            Unit::Ms => 1_000,
            Unit::S => 1_000_000,
            Unit::M => 60_000_000,
            Unit::H => 3_600_000_000,
            Unit::D => 86_400_000_000,
        }
    }

    /// So many of this unit.
    pub(crate) fn of(self, number: u64) -> Duration {
        Duration::from_micros(number.saturating_mul(self.micros()))
    }

    /// `time` rounded up to this unit, written in the largest that keeps it whole: `1h`, `5053ms`.
    pub(crate) fn write_short(self, time: Duration) -> String {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).div_ceil(self.micros()).saturating_mul(self.micros());
        let unit = Unit::ALL.into_iter().find(|u| micros > 0 && micros.is_multiple_of(u.micros())).unwrap_or(self);
        unit.write(Duration::from_micros(micros))
    }

    /// `time` in this unit, rounded up: `5053ms`.
    pub fn write(self, time: Duration) -> String {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        format!("{}{}", micros.div_ceil(self.micros()), self.text())
    }
}

/// Reads a time. Without a unit the number counts `own`, the attribute's unit; a time that is no whole number
/// of that unit is refused (`500ms` where seconds count), since it would be rounded.
pub(crate) fn time(text: &str, own: Unit) -> Result<Duration, ProblemKind> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(bad(text, Expected::Time));
    }
    let unit = match unit.trim() {
        "" => own,
        written => match Unit::ALL.into_iter().find(|u| u.text() == written) {
            Some(unit) => unit,
            None if written.starts_with(['.', ',', '-', '+']) => return Err(bad(text, Expected::Time)),
            None => {
                let allowed = Unit::ALL.into_iter().filter(|u| *u >= own).map(|u| u.text().to_owned()).collect();
                return Err(ProblemKind::BadUnit { value: shorten(text), allowed });
            }
        },
    };
    let too_large = || ProblemKind::TooLarge { value: shorten(text), most: Unit::D.write(TIME_MAX) };
    let micros = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit.micros())).ok_or_else(too_large)?;
    let time = Duration::from_micros(micros);
    if time > TIME_MAX {
        return Err(too_large());
    }
    if !micros.is_multiple_of(own.micros()) {
        return Err(ProblemKind::TooFine { value: shorten(text), unit: own.text().to_owned() });
    }
    Ok(time)
}

/// Reads a whole number in `least..=most`.
pub(crate) fn number(text: &str, least: i64, most: i64) -> Result<i64, ProblemKind> {
    let text = text.trim();
    text.parse::<i64>().ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| bad(text, Expected::Number { least, most }))
}

/// Reads an address; IPv6 may stand in brackets.
pub(crate) fn address(text: &str) -> Result<IpAddr, ProblemKind> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inner.parse::<IpAddr>().ok().filter(|a| !a.is_unspecified() && !a.is_multicast()).ok_or_else(|| bad(text, Expected::Address))
}

/// Reads a netmask or prefix length; how long it may be depends on the address and is checked there.
pub(crate) fn netmask(text: &str) -> Result<u8, ProblemKind> {
    let text = text.trim();
    let refused = || bad(text, Expected::Netmask);
    if let Ok(prefix) = text.strip_prefix('/').unwrap_or(text).parse::<u8>() {
        return if (1..=128).contains(&prefix) { Ok(prefix) } else { Err(refused()) };
    }
    let mask = u32::from(text.parse::<std::net::Ipv4Addr>().map_err(|_| refused())?);
    // Ones first, then zeros only.
    if mask != 0 && mask.leading_ones() + mask.trailing_zeros() == 32 {
        u8::try_from(mask.leading_ones()).map_err(|_| refused())
    } else {
        Err(refused())
    }
}

/// A host name as DNS has them, or an address.
pub(crate) fn host(text: &str) -> Result<String, ProblemKind> {
    let text = text.trim();
    if let Ok(addr) = address(text) {
        return Ok(addr.to_string());
    }
    let is_label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    // All digits and dots is a mistyped address, not a name.
    let is_name = text.len() <= 253 && text.split('.').all(is_label) && !text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_name { Ok(text.to_owned()) } else { Err(bad(text, Expected::AddressOrName)) }
}

/// A plain path below a directory: no `..`, no empty part.
pub(crate) fn relative_path(text: &str) -> Result<String, ProblemKind> {
    let is_plain = |p: &str| !p.is_empty() && p != "." && p != "..";
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    if !trimmed.contains('\0') && trimmed.split('/').all(is_plain) {
        Ok(trimmed.to_owned())
    } else {
        Err(bad(text, Expected::RelativePath))
    }
}

/// Longest regular expression for names: far more than a name has, and little enough to be compiled at once.
pub const NAME_PATTERN_BYTES_MAX: usize = 1000;

/// A regular expression for names, or `!` and one. Whether it is one is for whoever compiles it.
pub(crate) fn name_pattern(text: &str) -> Result<(), ProblemKind> {
    let is_empty = text.strip_prefix('!').unwrap_or(text).is_empty();
    if is_empty || text.len() > NAME_PATTERN_BYTES_MAX || text.contains(['<', '>', '\0']) {
        return Err(bad(text, Expected::NamePattern));
    }
    Ok(())
}

/// Name of an environment variable.
pub(crate) fn is_variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

pub(crate) fn bad(value: &str, expected: Expected) -> ProblemKind {
    ProblemKind::BadValue { value: shorten(value), expected }
}

/// Name of a file in a module's `bin`.
pub(crate) fn is_script_name(text: &str) -> bool {
    const BYTES_MAX: usize = 100;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= BYTES_MAX && !text.starts_with(['.', '-']) && text.chars().all(is_plain)
}

/// Name of a network interface, as the kernel takes it.
pub(crate) fn is_interface_name(text: &str) -> bool {
    const BYTES_MAX: usize = 15;
    !text.is_empty() && text.len() <= BYTES_MAX && !text.contains(|c: char| c == '/' || c.is_whitespace())
}

/// `http://HOST[:PORT][/PATH]` or `https://…`, of visible characters only: it becomes the head of a request.
pub(crate) fn is_http_url(text: &str) -> bool {
    const BYTES_MAX: usize = 2000;
    let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) else { return false };
    let (authority, _) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (name, port) = match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (authority, None),
    };
    let is_bracketed = name.starts_with('[') && name.ends_with(']');
    let is_port = port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0));
    let is_host = host(name).is_ok() && (is_bracketed || !name.contains(':'));
    text.len() <= BYTES_MAX && is_host && is_port && text.chars().all(|c| c.is_ascii_graphic() && c != '#')
}
