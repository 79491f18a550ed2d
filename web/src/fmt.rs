//! Numbers, sizes, times as people read them. Decimal units for sizes (GB = 10⁹), local time in pages.

use crate::both;
use crate::text::Lang;

/// `46.1 GB`; decimal units, three significant digits from kB up.
pub fn bytes(n: u64) -> String {
    let (value, unit) = scaled(n);
    if unit == "B" { format!("{n} B") } else { format!("{} {unit}", digits(value)) }
}

/// `46.1 / 74.3 GB`: both in the unit of the larger.
pub fn bytes_of(done: u64, total: u64) -> String {
    let (total_value, unit) = scaled(total);
    let factor = if total == 0 { 1.0 } else { total_value / total as f64 };
    if unit == "B" { format!("{done} / {total} B") } else { format!("{} / {} {unit}", digits(done as f64 * factor), digits(total_value)) }
}

/// `118 MB/s`.
pub fn rate(bytes_per_s: u64) -> String {
    format!("{}/s", bytes(bytes_per_s))
}

/// Microseconds in milliseconds: `0.4`, `12`.
pub fn millis_of(us: u64) -> String {
    if us < 10_000 { format!("{:.1}", us as f64 / 1000.0) } else { format!("{:.0}", us as f64 / 1000.0) }
}

fn scaled(n: u64) -> (f64, &'static str) {
    let steps = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    steps.iter().find(|(size, _)| n as f64 >= *size).map_or((n as f64, "B"), |(size, unit)| (n as f64 / size, unit))
}

fn digits(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// `18,204`.
pub fn count(n: u64) -> String {
    let plain = n.to_string();
    let mut out = String::with_capacity(plain.len() + plain.len() / 3);
    for (i, c) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 node`, `2 nodes` / `2 ノード`. `noun` is the English singular.
pub fn counted(lang: Lang, n: usize, noun: &str, ja: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    both!(lang, "{n} {noun}{s}", "{n} {ja}")
}

/// Whole percent, rounded down so that 100 means finished.
pub fn percent(done: u64, total: u64) -> u64 {
    if total == 0 { 0 } else { (u128::from(done.min(total)) * 100 / u128::from(total)) as u64 }
}

/// `0.4 s`, `11 s`, `3 min 20 s` / `0.4 秒`, `11 秒`, `3 分 20 秒`.
pub fn duration(lang: Lang, millis: u64) -> String {
    let (minutes, seconds) = (millis / 60_000, millis / 1000 % 60);
    match millis {
        0..10_000 => {
            let tenths = format!("{}.{}", millis / 1000, millis % 1000 / 100);
            both!(lang, "{tenths} s", "{tenths} 秒")
        }
        10_000..60_000 => both!(lang, "{seconds} s", "{seconds} 秒"),
        _ => both!(lang, "{minutes} min {seconds} s", "{minutes} 分 {seconds} 秒"),
    }
}

/// Age in steps people use: `just now`, `18 min ago`, `2 h ago`, `3 days ago`.
pub fn ago(lang: Lang, then_unix_ms: u64, now_unix_ms: u64) -> String {
    let minutes = now_unix_ms.saturating_sub(then_unix_ms) / 60_000;
    let (hours, days) = (minutes / 60, minutes / 1440);
    match minutes {
        0 => both!(lang, "just now", "たった今"),
        1..60 => both!(lang, "{minutes} min ago", "{minutes} 分前"),
        60..2880 => both!(lang, "{hours} h ago", "{hours} 時間前"),
        _ => both!(lang, "{days} days ago", "{days} 日前"),
    }
}

/// Time left of a resynchronisation: minutes, above one hour in steps of five. `None` while nothing moved yet.
pub fn left(lang: Lang, bytes_left: u64, bytes_per_s: u64) -> Option<String> {
    Some(time_left(lang, bytes_left.checked_div(bytes_per_s)?))
}

/// Time left: minutes, above one hour in steps of five.
pub fn time_left(lang: Lang, seconds: u64) -> String {
    let minutes = seconds.div_ceil(60);
    match minutes {
        0 | 1 => both!(lang, "less than 1 min left", "残り 1 分未満"),
        2..60 => both!(lang, "about {minutes} min left", "残り約 {minutes} 分"),
        _ => {
            let (hours, minutes) = (minutes / 60, minutes % 60 / 5 * 5);
            both!(lang, "about {hours} h {minutes} min left", "残り約 {hours} 時間 {minutes} 分")
        }
    }
}

/// Time left in few letters, for the narrow cell of a grid.
pub fn left_short(lang: Lang, bytes_left: u64, bytes_per_s: u64) -> Option<String> {
    let minutes = bytes_left.checked_div(bytes_per_s)?.div_ceil(60);
    Some(match minutes {
        0 | 1 => both!(lang, "< 1 min", "残り 1 分未満"),
        2..60 => both!(lang, "{minutes} min left", "残り {minutes} 分"),
        _ => {
            let hours = minutes / 60;
            both!(lang, "{hours} h left", "残り {hours} 時間")
        }
    })
}

/// A wall clock broken into the fields of a date, by the days-from-civil rule.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

fn civil(unix_ms: u64, offset_minutes: i32) -> Civil {
    let seconds = (unix_ms / 1000) as i64 + i64::from(offset_minutes) * 60;
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month,
        day: day_of_year - (153 * month_index + 2) / 5 + 1,
        hour: rest / 3600,
        minute: rest / 60 % 60,
        second: rest % 60,
    }
}

/// `14:32:08`.
pub fn clock(unix_ms: u64, offset_minutes: i32) -> String {
    let c = civil(unix_ms, offset_minutes);
    format!("{:02}:{:02}:{:02}", c.hour, c.minute, c.second)
}

/// `2026-11-23 14:32:08`.
pub fn date_clock(unix_ms: u64, offset_minutes: i32) -> String {
    let c = civil(unix_ms, offset_minutes);
    format!("{:04}-{:02}-{:02} {}", c.year, c.month, c.day, clock(unix_ms, offset_minutes))
}

/// RFC 3339 in UTC, for `<time datetime>`.
pub fn rfc3339(unix_ms: u64) -> String {
    date_clock(unix_ms, 0).replace(' ', "T") + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(74_300_000_000), "74.3 GB");
        assert_eq!(bytes_of(46_100_000_000, 74_300_000_000), "46.1 / 74.3 GB");
        assert_eq!(bytes_of(0, 0), "0 / 0 B");
        assert_eq!(rate(118_000_000), "118 MB/s");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn hundred_percent_means_finished() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(5, 0), 0);
    }

    #[test]
    fn dates_agree_with_known_instants() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(date_clock(951_782_400_000, 540), "2000-02-29 09:00:00");
    }

    #[test]
    fn remaining_time_is_rounded_as_people_speak() {
        assert_eq!(left(Lang::En, 100, 0), None);
        assert_eq!(left(Lang::En, 59, 1).as_deref(), Some("less than 1 min left"));
        assert_eq!(left(Lang::Ja, 230, 1).as_deref(), Some("残り約 4 分"));
        assert_eq!(left(Lang::En, 3600 + 13 * 60, 1).as_deref(), Some("about 1 h 10 min left"));
    }
}
