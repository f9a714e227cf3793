use router_core::ErrorCode;
use router_framework::keys::{HashedPrompts, PromptBlocks};
use router_kvcache::BlockHash;

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
    assert!(matches!(queue.try_recv().unwrap().entry.event, Event::Members(_)));
    recorder.close();
    record.members(members());
    assert_eq!((queue.len(), recorder.n_dropped()), (QUEUE - 1, 3));
}

/// A request that was refused, with so many blocks of its prompt.
fn refused(n_blocks: u64) -> Event {
    let hashes = (0..n_blocks).map(BlockHash).collect();
    let prompts = vec![PromptBlocks { block_tokens: 64, hashes, n_tokens: 64 * n_blocks as usize }];
    let request = RequestNote {
        id: 1,
        received: Stamp::ORIGIN,
        n_prompt_tokens: 64 * n_blocks,
        blocks: Some(Arc::new(HashedPrompts { prompts })),
        model: "m".into(),
        fairness_id: None,
        priority: 0,
        streams: false,
        n_prompts: 1,
        n_answers: None,
        max_output_tokens: None,
    };
    let refusal = Refusal { code: ErrorCode::Internal, reason: None, by_flow_control: false };
    Event::Refused(Box::new(Refused { request: Arc::new(request), refusal }))
}

#[tokio::test]
async fn long_prompts_fill_the_queue_by_their_bytes() {
    let (recorder, mut queue) = Recorder::new(Clock::new(), false);
    let record = recorder.router();
    let send = |n_blocks| record.send(Stamp::ORIGIN, refused(n_blocks));
    // Each takes a quarter of the bound and a little more, so that three have room.
    let n_blocks = (QUEUE_BYTES / 4 / size_of::<BlockHash>()) as u64;
    (0..5).for_each(|_| send(n_blocks));
    assert_eq!((queue.len(), recorder.n_dropped()), (3, 2));
    // What is short has room all the same.
    send(10);
    assert_eq!((queue.len(), recorder.n_dropped()), (4, 2));
    // What was taken counts until it is let go, for the writer has it in memory.
    let taken = queue.try_recv().unwrap();
    send(n_blocks);
    assert_eq!(recorder.n_dropped(), 3);
    drop(taken);
    send(n_blocks);
    assert_eq!((queue.len(), recorder.n_dropped()), (4, 3));
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
        let Queued { entry, .. } = queue.try_recv().unwrap();
        let Event::Configured(configured) = entry.event else { panic!("{entry:?}") };
        assert_eq!((entry.router, configured.text.as_deref()), (number, Some("text")));
    }
}
