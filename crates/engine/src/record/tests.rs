use super::*;

fn members() -> Vec<EndpointSpec> {
    vec![EndpointSpec::new("d", "a", "10.0.0.1", 1)]
}

#[tokio::test]
async fn a_full_queue_drops_and_counts_and_a_closed_recorder_does_neither() {
    let (recorder, mut queue) = Recorder::new(Clock::new(), true);
    let record = recorder.router();
    (0..QUEUE + 3).for_each(|_| record.members(members()));
    assert_eq!((recorder.n_dropped(), record.n_changes()), (3, QUEUE as u64 + 3));
    assert!(matches!(queue.try_recv().unwrap().event, Event::Members(_)));
    recorder.close();
    record.members(members());
    assert_eq!((queue.len(), recorder.n_dropped()), (QUEUE - 1, 3));
}

#[tokio::test]
async fn inputs_are_recorded_on_demand_and_each_router_has_a_number() {
    let (recorder, mut queue) = Recorder::new(Clock::new(), false);
    let record = recorder.router();
    record.members(members());
    record.configured("c", None, &Settings::default());
    assert!(queue.try_recv().is_err());
    let (recorder, mut queue) = Recorder::new(Clock::new(), true);
    for number in 0..2 {
        recorder.router().configured("c", Some(b"text"), &Settings::default());
        let entry = queue.try_recv().unwrap();
        let Event::Configured(configured) = entry.event else { panic!("{entry:?}") };
        assert_eq!((entry.router, configured.text.as_deref()), (number, Some("text")));
    }
}
