//! A live run in numbers: those that replay gives, by the same definitions, and how well the run itself went.

use std::collections::BTreeMap;
use std::time::Duration;

use router_core::Stamp;
use router_sim::replay::outcome::{Fate, Outcome, RequestOutcome};
use router_sim::replay::summary::{Goals, MEASURES, Summary};
use router_sim::replay::trace::TraceRequest;
use serde::{Serialize, Serializer};

use super::client::Course;
use super::stretch::Stretch;
use super::world::CpuTimes;

/// One configuration's live run.
#[derive(Clone, Debug, Serialize)]
pub struct LiveRun {
    pub configuration: String,
    #[serde(serialize_with = "measures")]
    pub summary: Summary,
    /// Why requests failed, and how many did so.
    pub failures: BTreeMap<String, usize>,
    pub lateness: Lateness,
    /// Mean time to the first token less what the servers themselves counted: Envoy, the picker and the network,
    /// and how late the servers were. In seconds.
    pub ttft_outside_servers: f64,
    /// How long requests took to the servers and the heads of the responses back, through Envoy and the picker.
    pub accepted_after: Lateness,
    pub cpu_seconds: CpuTimes,
    /// When each request was accepted, from the start of the run, in the order of the trace; when it was due
    /// where it failed.
    #[serde(skip)]
    pub accepted: Vec<Duration>,
}

/// By how much requests came later than they were due, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Lateness {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// The numbers that runs are compared by; curves stay out of files.
fn measures<S: Serializer>(summary: &Summary, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(MEASURES.iter().map(|measure| (measure.name, (measure.of)(summary))))
}

/// The same of every seed.
pub(super) fn measures_of_all<S: Serializer>(
    summaries: &[Summary],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let of = |summary: &Summary| -> BTreeMap<&'static str, f64> {
        MEASURES.iter().map(|measure| (measure.name, (measure.of)(summary))).collect()
    };
    serializer.collect_seq(summaries.iter().map(of))
}

impl Lateness {
    pub(super) fn of(late: impl Iterator<Item = Duration>) -> Self {
        let mut all: Vec<Duration> = late.collect();
        all.sort_unstable();
        let at = |share: f64| {
            let rank = (share * all.len().saturating_sub(1) as f64).ceil() as usize;
            all.get(rank).copied().unwrap_or_default().as_secs_f64()
        };
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// When each request was accepted, or was due where it failed.
pub(super) fn accepted(stretch: &Stretch, courses: &[Course]) -> Vec<Duration> {
    let each = stretch.arrivals().zip(courses);
    each.map(|(due, course)| course.answer.as_ref().map_or(due, |answer| answer.accepted)).collect()
}

pub(super) fn failures(courses: &[Course]) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    for failure in courses.iter().filter_map(|course| course.answer.as_ref().err()) {
        *failures.entry(failure.clone()).or_default() += 1;
    }
    failures
}

/// The run as replay would have put it. Requests arrive when they are due, so a client that is late makes times
/// longer, never shorter.
pub(super) fn summary(stretch: &Stretch, courses: &[Course], n_servers: u16) -> Summary {
    let requests = &stretch.trace.requests;
    let each = stretch.arrivals().zip(requests).zip(courses);
    let outcome = |((due, request), course): ((Duration, &TraceRequest), &Course)| {
        let arrived = Stamp::ORIGIN + due;
        let unserved = RequestOutcome {
            fate: Fate::Unserved,
            n_attempts: 1,
            ..RequestOutcome::arriving(arrived, request.prompt_tokens)
        };
        let Ok(answer) = &course.answer else { return unserved };
        RequestOutcome {
            fate: Fate::Served,
            server: answer.server,
            first_token: Some(Stamp::ORIGIN + answer.first_token),
            ended: Stamp::ORIGIN + answer.ended,
            cached_tokens: answer.cached_tokens,
            output_tokens: request.output_tokens,
            ..unserved
        }
    };
    let requests: Vec<RequestOutcome> = each.map(outcome).collect();
    let ended = requests.iter().map(|request| request.ended).max().unwrap_or_default();
    let servers = (0..n_servers).map(|nth| format!("server-{nth}").into()).collect();
    Summary::of(&Outcome { requests, servers, decisions: 0, ended }, Goals::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::client::Answer;

    fn course(lateness: u64, answer: Result<Answer, String>) -> Course {
        Course { lateness: Duration::from_millis(lateness), answer }
    }

    #[test]
    fn a_run_has_the_numbers_of_replay() {
        let rows = "{\"timestamp\": 0, \"input_length\": 100, \"output_length\": 11, \"hash_ids\": []}\n\
                    {\"timestamp\": 4000, \"input_length\": 300, \"output_length\": 1, \"hash_ids\": []}\n\
                    {\"timestamp\": 8000, \"input_length\": 300, \"output_length\": 1, \"hash_ids\": []}\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.jsonl");
        std::fs::write(&path, rows).unwrap();
        let stretch = Stretch::read(&path, 0.0, 1.0, 2.0).unwrap();
        let answer = |server, first_token, ended| {
            let (first_token, ended) =
                (Duration::from_secs(first_token), Duration::from_secs(ended));
            let accepted = Duration::from_millis(1);
            Ok(Answer { server: Some(server), accepted, first_token, ended, cached_tokens: 50 })
        };
        let courses = [
            course(1, answer(1, 1, 2)),
            course(2, answer(1, 9, 9)),
            course(40, Err("status 503".to_owned())),
        ];
        let summary = summary(&stretch, &courses, 2);
        // The first reaches its goals; the second's first token comes 7 s after it was due.
        assert!((summary.goodput - 1.0 / 3.0).abs() < 1e-9, "{summary:?}");
        assert_eq!((summary.ttft.mean, summary.tpot.p50), (4.0, 0.1));
        assert_eq!((summary.cached_ratio, summary.imbalance), (0.25, 2.0));
        assert_eq!(failures(&courses), BTreeMap::from([("status 503".to_owned(), 1)]));
        let accepted: Vec<_> =
            accepted(&stretch, &courses).iter().map(Duration::as_millis).collect();
        assert_eq!(accepted, [1, 1, 4000]);
        let late = Lateness::of(courses.iter().map(|course| course.lateness));
        assert_eq!((late.p50, late.p99, late.max), (0.002, 0.04, 0.04));
    }
}
