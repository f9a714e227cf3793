//! What a request costs on an endpoint, by the formula alone.

use super::*;

#[test]
fn a_copy_that_many_have_use_of_costs_less_than_one_for_a_single_conversation() {
    let load = Account::default().load(Stamp::from_nanos(1), &START);
    let cost = |cached_best, reuses| {
        load.cost(&Job { cached_best, reuses, ..job(10_000.0, 100.0) }, &typical(1_000.0)).total()
    };
    assert_eq!(cost(0.0, 100.0), cost(9_000.0, 0.0), "new text, and text of its own");
    assert!(cost(9_000.0, 1.0) < 0.7 * cost(9_000.0, 0.0));
    assert!(cost(9_000.0, 1.0) > cost(9_000.0, 10.0));
    let first_token = load.cost(&job(10_000.0, 100.0), &typical(1_000.0)).first_token;
    assert!(cost(10_000.0, 1e9) > first_token, "it still delays this request");
}

#[test]
fn where_slots_are_taken_nobody_has_use_of_a_copy() {
    let imposed = |n_waiting, n_decoding, slots, reuses| {
        let load = Load { n_waiting, n_decoding, slots, ..idle(1.0) };
        let job = Job { cached_best: 9_000.0, reuses, ..job(10_000.0, 100.0) };
        load.cost(&job, &typical(1_000.0)).imposed
    };
    let saved_beside = |n_waiting, n_decoding, slots| {
        let of = |reuses| imposed(n_waiting, n_decoding, slots, reuses);
        1.0 - of(1e9) / of(0.0)
    };
    let saved = |n_decoding, slots| saved_beside(0.0, n_decoding, slots);
    let at_first = saved(64.0, f64::INFINITY);
    assert!(at_first > 0.8, "{at_first}");
    assert!(saved(32.0, 64.0) > 0.9 * at_first, "half of the slots: {}", saved(32.0, 64.0));
    assert!(saved(60.0, 64.0) < 0.3 * at_first, "few left: {}", saved(60.0, 64.0));
    assert_eq!(saved(64.0, 64.0), 0.0);
    assert!(saved_beside(30.0, 30.0, 64.0) < 0.3 * at_first, "those that wait will have slots");
    assert_eq!(saved_beside(64.0, 64.0, 64.0), 0.0);
}

#[test]
fn where_caches_lose_what_is_asked_for_a_copy_is_a_waste() {
    let imposed = |lost, reuses| {
        let job = Job { cached_best: 9_000.0, reuses, ..job(10_000.0, 100.0) };
        idle(1.0).cost(&job, &Typical { lost, ..typical(1_000.0) }).imposed
    };
    assert!(imposed(0.0, 1e9) < 0.2 * imposed(0.0, 0.0));
    assert!(imposed(0.1, 1e9) > 2.0 * imposed(0.0, 1e9));
    for lost in [MAX_LOST, 1.0] {
        assert_eq!(imposed(lost, 1e9), imposed(0.0, 0.0), "{lost}");
    }
}

#[test]
fn the_less_there_is_to_do_the_fewer_come_later() {
    let imposed = |busy| {
        let all = Typical { busy, ..typical(1_000.0) };
        idle(1.0).cost(&job(10_000.0, 0.0), &all).imposed
    };
    let each = job(10_000.0, 0.0).effective_tokens() * START.prefill.per_unit;
    assert_eq!(imposed(0.0), 0.0, "whoever comes finds it idle again");
    for busy in [0.1, 0.5, 1.0] {
        let n_requests = imposed(busy) / each;
        assert!((n_requests / (COMING * busy) - 1.0).abs() < 1e-9, "{busy}: {n_requests}");
    }
}

#[test]
fn a_prefix_needs_as_many_endpoints_as_it_keeps_busy_for_half_of_their_time() {
    let hot = Job { cached_best: 9_000.0, ..job(10_000.0, 100.0) };
    assert_eq!(hot.n_needed(0.0, 0.0, &START), 0.0);
    let one = hot.n_needed(1.0, 0.0, &START);
    assert!((hot.n_needed(20.0, 0.0, &START) - 20.0 * one).abs() < 1e-9);
    let prefill = effective_tokens(10_000.0, 9_000.0) * START.prefill.per_unit;
    let steps = 100.0 * START.step.per_unit * (10_000.0 + 100.0 / 2.0 + SEQUENCE_TOKENS);
    assert!((one - 2.0 * (prefill + steps)).abs() < 1e-9, "{one}");
    // What is written now counts where it is more than what was expected.
    let expected = 20.0 * hot.output;
    assert_eq!(hot.n_needed(20.0, 0.9 * expected, &START), hot.n_needed(20.0, 0.0, &START));
    let more = hot.n_needed(20.0, 10.0 * expected, &START);
    assert!((more - 2.0 * (20.0 * prefill + 200.0 * steps)).abs() < 1e-9, "{more}");
}

#[test]
fn what_is_written_goes_by_the_steps_there_and_by_more_answers_than_chance_brings() {
    let with = |n_decoding, context| Load { n_decoding, context, ..idle(1.0) };
    let mut pace = Pace::default();
    assert_eq!(pace.written(9.0, 100.0, 10.0), 0.0, "nobody writes");
    for load in [with(30.0, 300_000.0), with(10.0, 0.0), with(0.0, 0.0)] {
        pace.add(&load);
    }
    let per_second = 30.0 / with(30.0, 300_000.0).step() + 10.0 / with(10.0, 0.0).step();
    let written = pace.written(40.0, 100.0, 10.0);
    let truth = (40.0 - 2.0 * 40.0_f64.sqrt()) * per_second / 40.0;
    assert!((written - truth).abs() < 1e-6, "{written} instead of {truth}");
    assert_eq!(pace.written(3.0, 100.0, 10.0), 0.0, "so few may be chance");
    let each = per_second / 40.0;
    assert_eq!(pace.written(40.0, 10.0, 6.0 * each), 0.0, "as long as was expected");
    assert!(pace.written(40.0, 10.0, 4.0 * each) > 0.0);
}

#[test]
fn a_copy_is_charged_less_by_what_it_saves_those_to_come() {
    let invested = |reuses, copy, with_copy, elsewhere| {
        let job = Job { reuses, ..job(10_000.0, 100.0) };
        job.invested(copy, with_copy, elsewhere)
    };
    assert_eq!(invested(4.0, 6.0, 0.5, 1.5), 2.0);
    assert_eq!(invested(0.0, 6.0, 0.5, 1.5), 6.0, "nobody comes");
    assert_eq!(invested(4.0, 6.0, 1.5, 1.5), 6.0, "nothing is saved");
    assert_eq!(invested(100.0, 6.0, 0.5, 1.5), 0.5, "it is no better than a copy that is there");
    assert_eq!(invested(100.0, 0.4, 0.5, 1.5), 0.4);
}

/// An idle endpoint, so many times as slow as the pool.
fn idle(slowness: f64) -> Load {
    let load = Account::default().load(Stamp::from_nanos(1), &START);
    Load { prefill: START.prefill.times(slowness), step: START.step.times(slowness), ..load }
}

#[test]
fn of_a_burst_a_slow_endpoint_takes_more_than_it_does_in_the_same_time_and_less_than_half() {
    let request = job(4_000.0, 100.0);
    let tokens = request.effective_tokens();
    let mut loads = [idle(2.0 / 3.0), idle(4.0 / 3.0)];
    for _ in 0..90 {
        let [fast, slow] = loads.map(|load| load.cost(&request, &typical(tokens)).total());
        let taken = &mut loads[usize::from(slow < fast)];
        taken.n_waiting += 1.0;
        taken.pending += tokens;
        taken.leased += tokens;
    }
    let [fast, slow] = loads.map(|load| load.n_waiting);
    assert!(slow > 33.0 && slow < 42.0, "{fast} {slow}: 60 and 30 would be done at once");
}

#[test]
fn short_prompts_that_wait_count_by_their_tokens_and_long_ones_by_their_number() {
    let imposed = |n_waiting, leased| {
        let load = Load { leased, n_waiting, ..idle(1.0) };
        load.cost(&job(2_000.0, 100.0), &typical(500.0)).imposed
    };
    assert_eq!(imposed(1.0, 500.0), imposed(1.0, 50_000.0));
    // The answer makes the steps of all of them longer.
    let (short, typical, none) =
        (imposed(10.0, 1_000.0), imposed(10.0, 5_000.0), imposed(0.0, 0.0));
    let share = (short - none) / (typical - none);
    assert!(share > 0.2 && share < 0.3, "{share}");
}

#[test]
fn where_no_slot_is_left_the_first_token_waits_for_answers_to_end() {
    let (request, typical) = (job(200.0, 100.0), typical(200.0));
    let cost = |n_waiting: f64, n_decoding: f64, slots: f64| {
        let load = Load { n_waiting, n_decoding, slots, ..idle(1.0) };
        (load.cost(&request, &typical).first_token, 100.0 * load.step() / slots)
    };
    let unknown = |n_waiting: f64, n_decoding: f64| cost(n_waiting, n_decoding, f64::INFINITY).0;
    let check = |n_waiting: f64, n_decoding: f64, n_ends: f64| {
        let (first_token, between_ends) = cost(n_waiting, n_decoding, 64.0);
        let wait = first_token - unknown(n_waiting, n_decoding);
        assert!((wait - n_ends * between_ends).abs() < 1e-9, "{n_waiting} {n_decoding}: {wait}");
    };
    check(0.0, 63.0, 0.0);
    check(20.0, 40.0, 0.0);
    check(0.0, 64.0, 1.0);
    check(20.0, 64.0, 21.0);
    check(30.0, 50.0, 17.0);
}

#[test]
fn where_slots_lack_long_requests_do_not_gather_where_few_wait() {
    let imposed = |n_waiting, leased, n_decoding| {
        let load = Load { n_waiting, leased, n_decoding, slots: 64.0, ..idle(1.0) };
        load.cost(&job(2_000.0, 100.0), &typical(500.0)).imposed
    };
    let few_long = imposed(5.0, 40_000.0, 64.0);
    let many_short = imposed(40.0, 2_000.0, 64.0);
    assert!(few_long > many_short, "{few_long} {many_short}");
    // With slots left, those that come are as many as those that wait.
    assert!(imposed(5.0, 40_000.0, 20.0) < imposed(40.0, 20_000.0, 20.0));
}

#[test]
fn half_a_step_is_in_the_way_where_anything_decodes_and_late_steps_count_for_more() {
    let cost = |n_decoding, n_per_token: f64| {
        let step = Line { per_unit: n_per_token * START.step.per_unit, ..START.step };
        let load = Load { n_decoding, context: n_decoding * 1_000.0, step, ..idle(1.0) };
        // All of the prompt but a token is cached: what it does to others is what its answer does.
        let job = Job { cached: 999.0, ..job(1_000.0, 100.0) };
        (load.step(), load.cost(&job, &typical(1.0)))
    };
    let ((idle_step, idle), (step, busy)) = (cost(0.0, 1.0), cost(10.0, 1.0));
    let more = busy.first_token - idle.first_token;
    assert!((more - (1.5 * step - idle_step)).abs() < 1e-9, "{more}");
    // As much as a token makes steps longer, it costs; where steps are late, the square of that.
    let by_token = |n_per_token| {
        let (step, Cost { imposed, .. }) = cost(10.0, n_per_token);
        (step, imposed / n_per_token)
    };
    let ((short, in_time), (still, at_goal)) = (by_token(1.0), by_token(100.0));
    assert!(short < still && still < 0.1 && (at_goal / in_time - 1.0).abs() < 0.1);
    let (late, counted) = by_token(200.0);
    assert!(late > 0.13 && late < 0.18, "{late}");
    let weight = (late / 0.1).powi(2);
    assert!((counted / at_goal / weight - 1.0).abs() < 0.1, "{counted} {at_goal} {weight}");
    // At most as much as for a first token.
    let (_, hopeless) = by_token(100_000.0);
    assert!((hopeless / at_goal - 1.0 / 0.3).abs() < 0.1, "{hopeless} {at_goal}");
}
