use tokio::sync::oneshot;

use super::*;

const LONG: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn a_task_gives_its_result() {
    let tasks = Tasks::new();
    let task = tasks.spawn("sum", async { 2 + 3 });
    assert_eq!(tasks.running(), [("sum", 1)]);
    assert_eq!(task.join().await, Ok(5));
    assert_eq!(tasks.n_running(), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_tasks_that_end_in_order() {
    let tasks = Tasks::new();
    let token = tasks.token().clone();
    let (tx, mut rx) = oneshot::channel();
    tasks.spawn("orderly", async move {
        token.cancelled().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        tx.send("flushed").unwrap();
    });
    assert_eq!(tasks.shutdown(LONG).await, Ok(()));
    assert_eq!(rx.try_recv(), Ok("flushed"));
}

#[tokio::test(start_paused = true)]
async fn shutdown_names_what_still_runs() {
    let tasks = Tasks::new();
    tasks.spawn("deaf", std::future::pending::<()>());
    tasks.spawn("deaf", std::future::pending::<()>());
    tasks.child().spawn("stubborn", std::future::pending::<()>());
    tasks.spawn_cancellable("fine", std::future::pending::<()>());
    let late = tasks.shutdown(LONG).await.unwrap_err();
    assert_eq!(late.names, [("deaf", 2), ("stubborn", 1)]);
    assert_eq!(late.to_string(), "tasks still running at the deadline: deaf (2), stubborn (1)");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_counted_and_hurts_nobody_else() {
    let tasks = Tasks::new();
    let child = tasks.child();
    let bad = child.spawn("bad", async {
        tokio::task::yield_now().await;
        panic!("out of luck");
    });
    let good = child.spawn("good", async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        1
    });
    assert_eq!(bad.join().await, Err::<(), _>(TaskEnd::Panicked));
    assert_eq!(good.join().await, Ok(1));
    assert_eq!((child.n_panics(), tasks.n_panics()), (1, 1));
    assert_eq!(tasks.n_running(), 0);
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_child_leaves_its_parent_alone() {
    let tasks = Tasks::new();
    let child = tasks.child();
    let mine = tasks.spawn_cancellable("mine", async {
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let theirs = child.spawn_cancellable("theirs", std::future::pending::<()>());
    child.shutdown(LONG).await.unwrap();
    assert_eq!(theirs.join().await, Err(TaskEnd::Cancelled));
    assert!(!tasks.is_cancelled());
    assert_eq!(mine.join().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn cancelling_a_parent_reaches_grandchildren() {
    let tasks = Tasks::new();
    let grandchild = tasks.child().child();
    let task = grandchild.spawn_cancellable("deep", std::future::pending::<()>());
    tasks.shutdown(LONG).await.unwrap();
    assert_eq!(task.join().await, Err(TaskEnd::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn ended_returns_at_once_without_tasks() {
    Tasks::new().ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_come_back_to_zero_from_many_threads() {
    let tasks = Tasks::new();
    for _ in 0..1_000 {
        tasks.spawn("short", tokio::task::yield_now());
    }
    tasks.ended().await;
    assert_eq!(tasks.n_running(), 0);
    assert_eq!(tasks.running(), []);
}
