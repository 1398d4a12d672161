//! The syntax of a cron job's schedule: five fields, or an `@` word.

/// What is wrong with a schedule, if anything.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let schedule = schedule.trim();
    if let Some(word) = schedule.strip_prefix('@') {
        return match word {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => {
                Ok(())
            }
            _ => match word.strip_prefix("every ") {
                Some(span) if rkube_api::duration::parse(span).is_some() => Ok(()),
                Some(span) => Err(format!("failed to parse duration @every {span}")),
                None => Err(format!("unrecognized descriptor: @{word}")),
            },
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str], u32); 5] = [
        (0, 59, &[], 0),
        (0, 23, &[], 0),
        (1, 31, &[], 0),
        (1, 12, &MONTHS, 1),
        (0, 6, &DAYS, 0),
    ];
    for (field, (min, max, words, offset)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            check_part(part, min, max, words, offset)?;
        }
    }
    Ok(())
}

fn check_part(part: &str, min: u32, max: u32, words: &[&str], offset: u32) -> Result<(), String> {
    let (range, step) = match part.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {part}")),
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let number = |s: &str| -> Result<u32, String> {
        let lower = s.to_ascii_lowercase();
        if let Some(i) = words.iter().position(|w| *w == lower) {
            return Ok(u32::try_from(i).unwrap_or(0) + offset);
        }
        s.parse().map_err(|_| {
            format!("failed to parse int from {s}: strconv.Atoi: parsing {s:?}: invalid syntax")
        })
    };
    let (start, end) = match range {
        "*" | "?" => (min, max),
        _ => match range.split_once('-') {
            Some((_, end)) if end.contains('-') => return Err(format!("too many hyphens: {part}")),
            Some((start, end)) => (number(start)?, number(end)?),
            None => {
                let n = number(range)?;
                (n, if step.is_some() { max } else { n })
            }
        },
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if start < min {
        return Err(format!(
            "beginning of range ({start}) below minimum ({min}): {part}"
        ));
    }
    if end > max {
        return Err(format!(
            "end of range ({end}) above maximum ({max}): {part}"
        ));
    }
    if start > end {
        return Err(format!(
            "beginning of range ({start}) beyond end of range ({end}): {part}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;
    use proptest::prelude::*;

    #[test]
    fn schedules() {
        for fine in [
            "* * * * *",
            "*/5 0-6,12 1 jan-mar MON",
            "@daily",
            "@every 1h30m",
            "? * * * ?",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for bad in [
            "* * * *",
            "60 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@often",
            "a * * * *",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(s in ".{0,40}") {
            let _ = check(&s);
        }
    }
}
