//! What servers had to do over the time of a run.

use router_core::Stamp;
use serde::Serialize;

use crate::replay::outcome::{Fate, Outcome};

/// The most steps of a course.
pub const MAX_STEPS: usize = 120;
/// The most rows; of more servers, several share one.
pub const MAX_ROWS: usize = 64;

/// Lengths of a step that people can count in, in seconds.
const NICE_STEPS: [f64; 18] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1_800.0, 3_600.0,
];

/// Means over steps of equal length, from the start of the run. A row is a server, or several neighbours, of
/// which it has the largest value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Course {
    /// Seconds.
    pub step: f64,
    pub servers_per_row: usize,
    /// Requests that a server has, waiting or running.
    pub in_flight: Vec<Vec<f32>>,
    /// Prompt tokens that it has still to compute for requests whose first token is not out.
    pub pending_tokens: Vec<Vec<f32>>,
}

/// Values that hold for a while, added up: the mean of each step.
struct Sums {
    step: f64,
    /// What a step gets by itself.
    partial: Vec<f64>,
    /// By how much the value of whole steps changes from one to the next.
    change: Vec<f64>,
}

impl Course {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let length = outcome.ended.since(Stamp::ORIGIN).as_secs_f64();
        let step = step(length);
        let n_steps = ((length / step).ceil() as usize).clamp(1, MAX_STEPS);
        let n_servers = outcome.servers.len();
        let sums = || (0..n_servers).map(|_| Sums::new(step, n_steps)).collect::<Vec<_>>();
        let (mut in_flight, mut pending) = (sums(), sums());
        for request in &outcome.requests {
            let (Some(server), Some(sent)) = (request.server, request.sent) else { continue };
            let server = server as usize;
            let (Some(in_flight), Some(pending)) =
                (in_flight.get_mut(server), pending.get_mut(server))
            else {
                continue;
            };
            if !matches!(request.fate, Fate::Served | Fate::Broken | Fate::Unfinished) {
                continue;
            }
            let seconds = |stamp: Stamp| stamp.since(Stamp::ORIGIN).as_secs_f64();
            in_flight.add(seconds(sent), seconds(request.ended), 1.0);
            let n_tokens = request.prompt_tokens.saturating_sub(request.cached_tokens);
            let until = request.first_token.unwrap_or(request.ended);
            pending.add(seconds(sent), seconds(until), f64::from(n_tokens));
        }
        let servers_per_row = n_servers.div_ceil(MAX_ROWS).max(1);
        Self {
            step,
            servers_per_row,
            in_flight: rows(&in_flight, servers_per_row, 100.0),
            pending_tokens: rows(&pending, servers_per_row, 1.0),
        }
    }
}

/// The shortest nice step by which a run of this length has few enough of them.
fn step(length: f64) -> f64 {
    let fits = |step: &f64| length <= step * MAX_STEPS as f64;
    let nice = NICE_STEPS.into_iter().find(fits);
    nice.unwrap_or(length / MAX_STEPS as f64)
}

/// The rows of a course, rounded to a part of `1 / precision`.
fn rows(sums: &[Sums], servers_per_row: usize, precision: f64) -> Vec<Vec<f32>> {
    let of_row = |servers: &[Sums]| {
        let means: Vec<Vec<f64>> = servers.iter().map(Sums::means).collect();
        let n_steps = means.first().map_or(0, Vec::len);
        let most = |at: usize| means.iter().filter_map(|row| row.get(at)).fold(0.0, most_of);
        (0..n_steps).map(|at| ((most(at) * precision).round() / precision) as f32).collect()
    };
    sums.chunks(servers_per_row).map(of_row).collect()
}

fn most_of(a: f64, b: &f64) -> f64 {
    a.max(*b)
}

// === impl Sums ===

impl Sums {
    fn new(step: f64, n_steps: usize) -> Self {
        Self { step, partial: vec![0.0; n_steps], change: vec![0.0; n_steps + 1] }
    }

    /// Adds a value that holds from one time to another, in time that does not grow with how long that is.
    fn add(&mut self, from: f64, to: f64, value: f64) {
        let last = self.partial.len() - 1;
        let (from, to) = (from / self.step, to / self.step);
        let (first_step, last_step) = ((from as usize).min(last), (to as usize).min(last));
        if first_step == last_step {
            self.partial[first_step] += value * (to - from).max(0.0);
            return;
        }
        self.partial[first_step] += value * ((first_step + 1) as f64 - from);
        self.partial[last_step] += value * (to - last_step as f64).min(1.0);
        self.change[first_step + 1] += value;
        self.change[last_step] -= value;
    }

    fn means(&self) -> Vec<f64> {
        let mut whole = 0.0;
        let steps = self.partial.iter().zip(&self.change);
        steps
            .map(|(partial, change)| {
                whole += change;
                // Adding and taking away again may leave a rest next to zero.
                (whole + partial).max(0.0)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::outcome::RequestOutcome;

    fn stamp(seconds: f64) -> Stamp {
        Stamp::from_nanos((seconds * 1e9) as u64)
    }

    fn request(server: u32, sent: f64, first_token: f64, ended: f64) -> RequestOutcome {
        RequestOutcome {
            fate: Fate::Served,
            server: Some(server),
            sent: Some(stamp(sent)),
            first_token: Some(stamp(first_token)),
            ended: stamp(ended),
            cached_tokens: 40,
            ..RequestOutcome::arriving(stamp(sent), 100)
        }
    }

    fn course(requests: Vec<RequestOutcome>, n_servers: usize, ended: f64) -> Course {
        let servers = (0..n_servers).map(|nth| nth.to_string().into()).collect();
        Course::of(&Outcome { requests, servers, decisions: 0, ended: stamp(ended) })
    }

    #[test]
    fn steps_have_the_mean_of_what_a_server_had() {
        let requests = vec![
            request(0, 1.5, 2.0, 4.5),
            request(0, 4.25, 4.5, 4.75),
            request(1, 0.0, 3.5, 120.0),
        ];
        let course = course(requests, 2, 120.0);
        assert_eq!((course.step, course.servers_per_row), (1.0, 1));
        assert_eq!(course.in_flight[0][..6], [0.0, 0.5, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(course.pending_tokens[0][..6], [0.0, 30.0, 0.0, 0.0, 15.0, 0.0]);
        assert_eq!(course.in_flight[1], vec![1.0; 120]);
        assert_eq!(course.pending_tokens[1][..5], [60.0, 60.0, 60.0, 30.0, 0.0]);
    }

    #[test]
    fn many_servers_share_rows_and_long_runs_have_long_steps() {
        let requests = vec![request(3, 0.0, 0.0, 500.0), request(2, 0.0, 0.0, 1.0)];
        let course = course(requests, 256, 3_540.0);
        assert_eq!((course.step, course.servers_per_row), (30.0, 4));
        assert_eq!((course.in_flight.len(), course.in_flight[0].len()), (64, 118));
        assert_eq!(course.in_flight[0][..2], [1.0, 1.0]);
        assert_eq!(course.in_flight[1][0], 0.0);
    }

    #[test]
    fn a_run_of_nothing_has_a_course() {
        let course = course(Vec::new(), 1, 0.0);
        assert_eq!((course.step, course.in_flight), (0.01, vec![vec![0.0]]));
    }
}
