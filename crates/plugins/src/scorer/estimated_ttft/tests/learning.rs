//! What answers teach.

use super::*;

#[test]
fn several_answers_teach_the_true_step_and_length() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let mut now = Stamp::from_nanos(1);
    let several = Job { n_answers: 4, n_copies: 4, ..job(500.0, 100.0) };
    for _ in 0..300 {
        let load = account.load(now, &pool.speed());
        let mut entry = account.take(now, &several, true, &load);
        let prefill = TRUTH.prefill.at(several.effective_tokens()) + TRUTH.step.base;
        now = now + Duration::from_secs_f64(prefill);
        account.first_byte(now, &mut entry);
        let step = TRUTH.step.at(several.context() + 4.0 * SEQUENCE_TOKENS);
        now = now + Duration::from_secs_f64(99.0 * step);
        account.end(now, &entry, Some(said(4 * 100)), &pool);
    }
    assert_near(speed(&account, &pool, now), TRUTH);
    assert!((pool.typical().output - 100.0).abs() < 20.0, "{:?}", pool.typical());
}

#[test]
fn answers_that_do_not_stream_decode_when_their_prompts_must_have_been_computed() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let from = Stamp::from_nanos(1_000_000_000);
    let whole = job(3_000.0, 100.0);
    let second = whole.effective_tokens() * START.prefill.per_unit;
    let at = |prompts: f64| from + Duration::from_secs_f64(prompts * second);
    let take = |shows| account.take(from, &whole, shows, &account.load(from, &START));
    let [first, _, last] = [false, false, true].map(take);
    let check = |prompts, n_waiting: f64, n_decoding: f64| {
        let load = account.load(at(prompts), &START);
        let near = |a: f64, b: f64| (a - b).abs() < 0.01;
        assert!(near(load.n_waiting, n_waiting) && near(load.n_decoding, n_decoding), "{load:?}");
        let pending = (3.0 - prompts).max(0.0) * whole.effective_tokens();
        assert!(near(load.pending / pending.max(1.0), pending / pending.max(1.0)), "{load:?}");
        assert!(near(load.context, n_decoding * whole.context()), "{load:?}");
    };
    check(0.0, 3.0, 0.0);
    check(0.5, 2.5, 0.5);
    // What changes in the account in between changes nothing.
    assert_eq!(account.end(at(0.6), &take(true), None, &pool), None);
    check(1.0, 2.0, 1.0);
    assert_eq!(account.end(at(1.2), &take(true), None, &pool), None);
    check(1.5, 1.5, 1.5);
    check(2.0, 1.0, 2.0);
    // Of the streamed one it is seen.
    check(9.0, 1.0, 2.0);
    assert_eq!(account.end(at(9.0), &first, None, &pool), None);
    check(9.0, 1.0, 1.0);
    assert_eq!(account.end(at(9.0), &last, None, &pool), None);
    check(9.0, 0.0, 1.0);
}

/// Rate that is learned where every fourth prompt is counted so many times too long, and another waits behind it.
fn learned_under(factor: f64) -> f64 {
    let (account, pool, mut rng) = (Account::default(), Pool::new(START, 256.0), Rng::seeded(3));
    let mut now = Stamp::from_nanos(1);
    let load = |now| account.load(now, &pool.speed());
    for nth in 0..600 {
        let liar = job(1_000.0 + 2_000.0 * rng.f64(), 100.0);
        let honest = job(200.0 + 4_000.0 * rng.f64(), 100.0);
        let seconds = |job: Job| Duration::from_secs_f64(TRUTH.prefill.at(job.effective_tokens()));
        let answer = |job: Job| Answer { prompt: Some(job.prompt as u64), ..said(100) };
        let liar = (nth % 4 == 0).then(|| {
            let claimed = Job { prompt: factor * liar.prompt, ..liar };
            (liar, account.take(now, &claimed, true, &load(now)))
        });
        let mut entry = account.take(now, &honest, true, &load(now));
        let liar = liar.map(|(liar, mut entry)| {
            now = now + seconds(liar);
            account.first_byte(now, &mut entry);
            (liar, entry)
        });
        now = now + seconds(honest);
        account.first_byte(now, &mut entry);
        now = now + Duration::from_secs(3);
        account.end(now, &entry, Some(answer(honest)), &pool);
        // The truth comes late.
        if let Some((liar, entry)) = liar {
            account.end(now, &entry, Some(answer(liar)), &pool);
        }
    }
    1.0 / load(now).prefill.at(2_000.0)
}

#[test]
fn claims_of_a_thousand_times_the_tokens_do_not_move_the_rate() {
    let honest = learned_under(1.0);
    for factor in [1_000.0, 0.001] {
        let ratio = learned_under(factor) / honest;
        assert!((0.95..1.05).contains(&ratio), "{factor}: {ratio}");
    }
}

#[test]
fn text_that_is_always_counted_differently_is_learned_from_as_it_is_counted() {
    let pool = Pool::new(START, 256.0);
    for _ in 0..400 {
        let prefill = Prefill { prompt: 2_000.0, seconds: 1.0, ..Prefill::default() };
        let claim = Some((2_000.0, 2_800.0));
        pool.observe(&Sample { prefill: Some(prefill), claim, ..Sample::default() });
    }
    let seconds = pool.speed().prefill.at(effective_tokens(2_000.0, 0.0));
    assert!((0.95..1.05).contains(&seconds), "{seconds}");
}

/// How fast the endpoints of these tests are: prefill ten times slower than where learning begins.
const TRUTH: Speed = Speed {
    prefill: Line { base: 0.02, per_unit: 1.0 / 1_500.0 },
    step: Line { base: 0.03, per_unit: 1e-7 },
};

/// One request after the other, each with the times of `truth`; a share of them takes ten times as long.
fn serve(
    account: &Account,
    pool: &Pool,
    truth: Speed,
    from: Stamp,
    outliers: f64,
    n_requests: usize,
) -> Stamp {
    let (mut now, mut rng) = (from, Rng::seeded(7));
    for _ in 0..n_requests {
        let job = job(200.0 + 4_000.0 * rng.f64(), 100.0);
        let mut entry = account.take(now, &job, true, &account.load(now, &pool.speed()));
        let factor = if rng.chance(outliers) { 10.0 } else { 1.0 };
        let prefill = truth.prefill.at(job.effective_tokens()) + truth.step.base;
        now = now + Duration::from_secs_f64(factor * prefill);
        account.first_byte(now, &mut entry);
        let step = truth.step.at(job.context() + SEQUENCE_TOKENS);
        now = now + Duration::from_secs_f64(factor * step * 99.0);
        account.end(now, &entry, Some(said(100)), pool);
    }
    now
}

#[track_caller]
fn assert_near(found: Speed, truth: Speed) {
    let pairs = [
        (found.prefill.at(2_000.0), truth.prefill.at(2_000.0)),
        (found.prefill.at(4_000.0), truth.prefill.at(4_000.0)),
        (found.step.at(2_000.0), truth.step.at(2_000.0)),
    ];
    let near = |(a, b): (f64, f64)| (a / b - 1.0).abs() < 0.25;
    assert!(pairs.into_iter().all(near), "{found:?} is not {truth:?}: {pairs:?}");
}

fn speed(account: &Account, pool: &Pool, now: Stamp) -> Speed {
    let load = account.load(now, &pool.speed());
    Speed { prefill: load.prefill, step: load.step }
}

#[test]
fn the_true_rates_are_learned_under_outliers_and_a_slow_down_is_followed() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.2, 150);
    assert_near(speed(&account, &pool, now), TRUTH);
    let slower = Speed {
        prefill: Line { per_unit: 3.0 * TRUTH.prefill.per_unit, ..TRUTH.prefill },
        step: Line { base: 3.0 * TRUTH.step.base, ..TRUTH.step },
    };
    let now = serve(&account, &pool, slower, now, 0.2, 80);
    assert_near(speed(&account, &pool, now), slower);
    assert!((pool.typical().output - 100.0).abs() < 20.0, "{:?}", pool.typical());
}

#[test]
fn a_clock_that_stands_still_teaches_nothing_absurd() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = Stamp::from_nanos(5);
    for _ in 0..10_000 {
        let load = account.load(now, &pool.speed());
        let mut entry = account.take(now, &job(1_000.0, 100.0), true, &load);
        account.first_byte(now, &mut entry);
        let answer = Answer { prompt: Some(u64::MAX), hits: Some(hits(0.0, 5.0)), ..said(100) };
        account.end(now, &entry, Some(answer), &pool);
    }
    let load = account.load(now, &pool.speed());
    let cost = load.cost(&job(1e6, 1e4), &pool.typical());
    assert!(cost.total().is_finite() && cost.first_token > 0.0, "{cost:?}");
}

#[test]
fn a_new_endpoint_begins_with_the_pools_speed() {
    let (taught, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&taught, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 300);
    assert_near(speed(&taught, &pool, now), TRUTH);
    assert_near(speed(&Account::default(), &pool, now), TRUTH);
}

#[test]
fn a_slow_endpoint_is_told_from_fast_ones_and_forgotten_without_answers() {
    let (fast, slow) = ([0; 7].map(|_| Account::default()), Account::default());
    let (pool, mut now) = (Pool::new(START, 256.0), Stamp::from_nanos(1));
    let slower = Speed { prefill: TRUTH.prefill.times(8.0), step: TRUTH.step.times(2.0) };
    for _ in 0..60 {
        for account in &fast {
            now = serve(account, &pool, TRUTH, now, 0.0, 1);
        }
        now = serve(&slow, &pool, slower, now, 0.0, 1);
    }
    assert_near(speed(&slow, &pool, now), slower);
    for account in &fast {
        assert_near(speed(account, &pool, now), TRUTH);
    }
    let at = |minutes| {
        let later = now + Duration::from_mins(minutes);
        slow.load(later, &pool.speed()).prefill.at(2_000.0) / TRUTH.prefill.at(2_000.0)
    };
    assert!(at(5) < 0.6 * at(0) && at(5) > 0.2 * at(0), "half of the way: {} {}", at(0), at(5));
    assert!(at(600) < 1.5, "{}", at(600));
}

/// An endpoint with so many slots, which are all that lacks: one request waits for the others all the time.
fn overrun(
    account: &Account,
    pool: &Pool,
    from: Stamp,
    n_slots: usize,
    n_requests: usize,
) -> Stamp {
    let (mut now, mut rng) = (from, Rng::seeded(9));
    let (mut waiting, mut decoding) = (VecDeque::new(), Vec::new());
    for _ in 0..n_requests {
        while waiting.len() <= 20 {
            let job = job(200.0 + 4_000.0 * rng.f64(), 100.0);
            let load = account.load(now, &pool.speed());
            waiting.push_back(account.take(now, &job, true, &load));
        }
        now = now + Duration::from_millis(400);
        if decoding.len() == n_slots {
            let entry = decoding.swap_remove(rng.below(n_slots));
            account.end(now, &entry, Some(said(100)), pool);
        }
        let Some(mut entry) = waiting.pop_front() else { continue };
        account.first_byte(now, &mut entry);
        decoding.push(entry);
    }
    for entry in waiting.into_iter().chain(decoding) {
        account.end(now, &entry, None, pool);
    }
    now
}

#[test]
fn waits_for_a_slot_are_not_learned_as_times_of_prefill() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 150);
    assert_eq!(account.load(now, &pool.speed()).slots, f64::INFINITY);
    let before = speed(&account, &pool, now).prefill.at(2_000.0);
    let now = overrun(&account, &pool, now, 16, 1_000);
    assert_eq!(account.load(now, &pool.speed()).slots, 16.0);
    let after = speed(&account, &pool, now).prefill.at(2_000.0);
    assert!(after < 1.3 * before, "{before} {after}");
    // With slots left, it is learned how fast prefill is.
    let slower = Speed { prefill: TRUTH.prefill.times(3.0), ..TRUTH };
    let now = serve(&account, &pool, slower, now, 0.0, 80);
    let found = speed(&account, &pool, now).prefill.at(2_000.0) / slower.prefill.at(2_000.0);
    assert!((0.75..1.25).contains(&found), "{found}");
}

/// Requests with nearly all of their prompts cached come in the middle of an endpoint's long decode steps.
#[test]
fn waits_for_decode_steps_are_not_learned_as_times_of_prefill() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let mut now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 150);
    let before = speed(&account, &pool, now).prefill.at(2_000.0);
    let (mut waiting, mut decoding) = (VecDeque::new(), VecDeque::new());
    let mut rng = Rng::seeded(5);
    // Looks every 5 ms; every 25th time, one more comes.
    for nth in 0..100_000 {
        now = now + Duration::from_millis(5);
        let step = TRUTH.step.at(decoding.len() as f64 * (10_050.0 + SEQUENCE_TOKENS));
        while let Some((_, mut entry)) = waiting.pop_front_if(|(until, _)| *until <= now) {
            account.first_byte(now, &mut entry);
            decoding.push_back((0.0, entry));
        }
        decoding.iter_mut().for_each(|(n_steps, _)| *n_steps += 0.005 / step);
        while let Some((_, entry)) = decoding.pop_front_if(|(n_steps, _)| *n_steps >= 99.0) {
            account.end(now, &entry, Some(said(100)), &pool);
        }
        if nth % 25 == 0 {
            let job = Job { cached: 9_990.0, ..job(10_000.0, 100.0) };
            let load = account.load(now, &pool.speed());
            let prefill = TRUTH.prefill.at(load.pending + job.effective_tokens());
            let until = now + Duration::from_secs_f64((1.0 + rng.f64()) * step + prefill);
            waiting.push_back((until, account.take(now, &job, true, &load)));
        }
    }
    assert!(account.load(now, &pool.speed()).step() > 0.1, "steps are long");
    let after = speed(&account, &pool, now).prefill.at(2_000.0);
    assert!((0.5..2.0).contains(&(after / before)), "{before} {after}");
}

/// Every second one waits for the place of its adapter, for as long as it takes to compute 40,000 tokens.
#[test]
fn waits_for_adapters_are_not_taken_for_prefill() {
    let learned = |n_models: u64| {
        let (account, pool, mut rng) =
            (Account::default(), Pool::new(START, 256.0), Rng::seeded(3));
        let mut now = Stamp::from_nanos(1);
        let mut under_way = VecDeque::new();
        for nth in 0..400 {
            let job = Job { model: nth % n_models, ..job(500.0 + 3_000.0 * rng.f64(), 100.0) };
            let load = account.load(now, &pool.speed());
            let mut entry = account.take(now, &job, true, &load);
            let wait = if nth % 2 == 0 { 40_000.0 * START.prefill.per_unit } else { 0.0 };
            let prefill = START.prefill.at(job.effective_tokens()) + load.decoding();
            now = now + Duration::from_secs_f64(wait + prefill);
            account.first_byte(now, &mut entry);
            under_way.push_back(entry);
            if under_way.len() > 1 {
                account.end(now, &under_way.pop_front().unwrap(), Some(said(100)), &pool);
            }
        }
        speed(&account, &pool, now).prefill.at(2_000.0) / START.prefill.at(2_000.0)
    };
    let (of_one_model, of_adapters) = (learned(1), learned(8));
    assert!(of_one_model > 2.0, "a server can be so slow: {of_one_model}");
    assert!((0.8..1.5).contains(&of_adapters), "{of_adapters}");
}

/// A server that is slow is known to be, whatever adapters are asked for.
#[test]
fn a_slow_server_is_told_from_waits_for_adapters() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let (mut now, mut last) = (Stamp::from_nanos(1), None);
    for nth in 0..400 {
        let job = Job { model: nth % 8, ..job(2_000.0, 100.0) };
        let load = account.load(now, &pool.speed());
        let mut entry = account.take(now, &job, true, &load);
        let prefill = 4.0 * START.prefill.at(job.effective_tokens()) + load.decoding();
        now = now + Duration::from_secs_f64(prefill);
        account.first_byte(now, &mut entry);
        if let Some(last) = last.replace(entry) {
            account.end(now, &last, Some(said(100)), &pool);
        }
    }
    let slow = speed(&account, &pool, now).prefill.at(2_000.0) / START.prefill.at(2_000.0);
    assert!((3.0..5.0).contains(&slow), "{slow}");
}

#[test]
fn rare_long_answers_count_in_full() {
    let pool = Pool::new(START, 256.0);
    let answer = |output| {
        pool.observe(&Sample { output: Some(output), ..Sample::default() });
        pool.typical().output
    };
    // After each long one it is at its highest, before the next at its lowest.
    let ends = (0..2_000).map(|nth| answer(if nth % 20 == 0 { 8_000.0 } else { 5.0 }));
    let means: Vec<f64> = ends.skip(1_000).collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let truth = (8_000.0 + 19.0 * 5.0) / 20.0;
    assert!((mean / truth - 1.0).abs() < 0.02, "{mean} instead of {truth}");
    // One that nobody can have written moves it by no more than the longest that there are.
    let before = pool.typical().output;
    let after = answer(1e15);
    assert!(after > before && after < before + 1_400.0, "{before}, then {after}");
}

#[test]
fn what_is_lost_and_how_much_there_is_to_do_are_known_soon_and_forgotten() {
    let pool = Pool::new(START, 256.0);
    let demand = Demand { prompt: 4_000.0, uncached: 4_000.0, stored: 4_000.0, lost: 0.0 };
    let check = |lost, share: f64, busy| {
        for _ in 0..700 {
            pool.came(busy);
            pool.sent(Demand { lost, ..demand });
        }
        let typical = pool.typical();
        assert!((typical.lost - share).abs() < 0.1, "{typical:?}");
        assert!((typical.busy - busy).abs() < 0.1, "{typical:?}");
    };
    check(4_000.0, 1.0, 0.9);
    check(1_000.0, 0.25, 0.2);
    check(1e18, 1.0, 1.0);
    check(0.0, 0.0, 0.0);
    pool.sent(Demand { stored: f64::NAN, lost: f64::NAN, ..demand });
    pool.sent(Demand { stored: 0.0, lost: 9.0, ..demand });
    assert!(pool.typical().lost < 0.1);
}

#[test]
fn hits_that_are_none_are_expected_less() {
    let pool = Pool::new(START, 256.0);
    for _ in 0..500 {
        pool.observe(&Sample { hits: Some(hits(2_000.0, 500.0)), ..Sample::default() });
    }
    let share = pool.typical().hits;
    assert!((share - 0.25).abs() < 0.02, "{share}");
    pool.observe(&Sample { hits: Some(hits(0.0, 1e9)), ..Sample::default() });
    pool.observe(&Sample { hits: Some(hits(f64::NAN, f64::NAN)), ..Sample::default() });
    assert!((pool.typical().hits - share).abs() < 0.01);
}

/// Turn after turn of conversations: of each prompt the last answer is cached, too, which nobody here can know.
#[test]
fn what_is_found_beyond_is_expected_then() {
    let (pool, typical) = conversations(true);
    assert_near(pool.speed(), START);
    let believed = |tokens, is_most| typical.believed(Expected { tokens, is_most }, 5_000.0);
    assert!((believed(4_000.0, true) - 4_300.0).abs() < 10.0, "{typical:?}");
    assert_eq!(believed(4_000.0, false), 4_000.0, "the last answer was not given there");
    assert_eq!(believed(4_990.0, true), 4_999.0, "a last token is computed");
}

/// Where it is not expected, a third less is computed than was thought.
#[test]
fn what_is_found_beyond_does_not_make_the_rate_look_higher() {
    let (pool, typical) = conversations(false);
    assert_near(pool.speed(), START);
    assert_eq!(typical.beyond, 0.0);
}

/// What prompts teach of which 300 tokens more are cached than is known.
fn conversations(is_most: bool) -> (Pool, Typical) {
    const BEYOND: f64 = 300.0;
    let (account, pool, mut rng) = (Account::default(), Pool::new(START, 256.0), Rng::seeded(3));
    let mut now = Stamp::from_nanos(1);
    for _ in 0..400 {
        let prompt = 4_800.0 + 500.0 * rng.f64();
        let expected = Expected { tokens: 4_000.0, is_most };
        let cached = pool.typical().believed(expected, prompt);
        let job = Job { prompt, cached, ..job(prompt, 100.0) };
        let mut entry = account.take(now, &job, true, &account.load(now, &pool.speed()));
        let found = expected.tokens + BEYOND;
        let work = effective_tokens(prompt, found);
        now = now + Duration::from_secs_f64(START.prefill.at(work) + START.step.base);
        account.first_byte(now, &mut entry);
        now = now + Duration::from_secs_f64(99.0 * START.step.at(job.context() + SEQUENCE_TOKENS));
        let hits = Some(Hits { expected, found });
        account.end(now, &entry, Some(Answer { hits, ..said(100) }), &pool);
    }
    let typical = pool.typical();
    (pool, typical)
}
