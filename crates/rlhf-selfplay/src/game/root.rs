//! Roots of increasing functions of one number.

/// Halvings and secants after which a bracket of two neighbouring numbers is certain.
const MAX_ROUNDS: u32 = 400;
/// Doublings of a step after which there is no finite bracket.
const MAX_DOUBLINGS: u32 = 1100;

/// The root to the last digits, looked for from `start` in the direction in which it must be: `step` away at
/// first, then farther and farther. An infinite value is a value; NaN and a function without a root give
/// nothing.
pub(super) fn root(f: &mut dyn FnMut(f64) -> f64, start: f64, step: f64) -> Option<f64> {
    bracket(f, start, step).map(|within| narrowed(f, within))
}

/// Two places, the value at the lower one being below 0 and that at the upper one not.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    low: f64,
    high: f64,
}

/// Goes from `start` towards the root, `step` at first and twice as far each time.
fn bracket(f: &mut dyn FnMut(f64) -> f64, start: f64, step: f64) -> Option<Bracket> {
    let below = f(start) < 0.0;
    let (mut last, mut reach) = (start, step);
    for _ in 0..MAX_DOUBLINGS {
        let next = if below { last + reach } else { last - reach };
        let value = f(next);
        if !next.is_finite() || value.is_nan() {
            return None;
        }
        if (value < 0.0) != below {
            let (low, high) = if below { (last, next) } else { (next, last) };
            return Some(Bracket { low, high });
        }
        last = next;
        reach *= 2.0;
    }
    None
}

/// The root within the bracket to the last digits: secants between its ends (the Illinois rule), halves
/// where they are slow or a value is infinite.
fn narrowed(f: &mut dyn FnMut(f64) -> f64, within: Bracket) -> f64 {
    let Bracket { mut low, mut high } = within;
    let (mut at_low, mut at_high) = (f(low), f(high));
    let (mut width, mut slow) = (high - low, 0);
    let mut last = std::cmp::Ordering::Equal;
    for _ in 0..MAX_ROUNDS {
        let middle = low + 0.5 * (high - low);
        let secant = (low * at_high - high * at_low) / (at_high - at_low);
        let next = if slow >= 2 || !(secant > low && secant < high) { middle } else { secant };
        if !(next > low && next < high) {
            break;
        }
        let value = f(next);
        let side = value.total_cmp(&0.0);
        if value.abs() <= 0.0 || value.is_nan() {
            return next;
        }
        // The weight of an end that stays twice is halved, so that it moves too.
        if value < 0.0 {
            (low, at_low) = (next, value);
            at_high *= if side == last { 0.5 } else { 1.0 };
        } else {
            (high, at_high) = (next, value);
            at_low *= if side == last { 0.5 } else { 1.0 };
        }
        last = side;
        slow = if high - low > 0.5 * width { slow + 1 } else { 0 };
        width = if slow == 0 { high - low } else { width };
    }
    // Neighbours: the one with the smaller value.
    if f(high).abs() < f(low).abs() { high } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solve(f: impl Fn(f64) -> f64, start: f64) -> f64 {
        root(&mut |x| f(x), start, 1.0).expect("a root")
    }

    #[test]
    fn roots_of_steep_flat_and_infinite_functions() {
        assert!((solve(|x| x.exp() - 3.0, -40.0) - 3f64.ln()).abs() < 1e-15);
        assert!((solve(|x| x.powi(3) - 1e-30, 5.0) - 1e-10).abs() < 1e-15);
        assert!((solve(|x| (1000.0 * x).exp() - 2.0, 30.0) - 2f64.ln() / 1000.0).abs() < 1e-17);
        assert!((solve(|x| if x > 2.0 { f64::INFINITY } else { x - 1.5 }, 900.0) - 1.5).abs() < 1e-15);
    }

    #[test]
    fn what_has_no_root_gives_none() {
        assert!(root(&mut |_| 1.0, 0.0, 1.0).is_none() && root(&mut |_| f64::NAN, 0.0, 1.0).is_none());
    }
}
