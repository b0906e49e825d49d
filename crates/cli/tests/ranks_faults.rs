//! Processes that die, hang or never come: what the others do, and what is on the disk afterwards.

use crate::common;

use crate::common::{Done, Folder, Running, signal, train_words};
use std::{
    fs,
    net::TcpListener,
    ops::Range,
    thread::sleep,
    time::{Duration, Instant},
};

const WORDS: &str = "train.batch_size=3 checkpoints.every=1 checkpoints.keep=0";

/// Some of the ranks of a run, started by hand.
fn start(folder: &Folder, ranks: Range<usize>, size: usize, words: &[&str]) -> Vec<Running> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let variables = [("RANK", rank), ("WORLD_SIZE", size), ("MASTER_PORT", port.into())];
        let mut variables: Vec<_> = variables.map(|(name, value)| (name, value.to_string())).into();
        variables.extend([("MASTER_ADDR", "127.0.0.1".to_owned()), ("GLOO_SOCKET_IFNAME", "lo".to_owned())]);
        folder.start_in(words, &variables)
    };
    ranks.map(start).collect()
}

fn logged(folder: &Folder, run: &str) -> usize {
    let log = fs::read_to_string(folder.path(&format!("{run}/events.jsonl"))).unwrap_or_default();
    log.matches("\"event\":\"step\"").count()
}

/// The survivors end in time, each with one line.
#[track_caller]
fn all_fail(ranks: Vec<Running>, most: Duration, said: &[&str]) {
    let since = Instant::now();
    for rank in ranks {
        let done = rank.wait();
        assert!(since.elapsed() < most, "after {:?}: {done:?}", since.elapsed());
        done.error(&[&["of 3: "], said].concat());
    }
}

/// What is on the disk is a beginning of the run that nothing happened to, and other numbers of ranks go on from it.
#[track_caller]
fn all_is_whole(folder: &Folder, run: &str) {
    let checkpoint = |run: &str, step: usize| {
        let files = ["adapter.safetensors", "optimizer.safetensors"];
        files.map(|name| folder.tensors(&format!("{run}/checkpoints/step-{step}/{name}")))
    };
    let steps: Vec<usize> = folder
        .names(&format!("{run}/checkpoints"))
        .iter()
        .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
        .collect();
    let last = *steps.iter().max().expect("a checkpoint was written");
    let more = last + 1;
    folder.train(&format!("output=straight {WORDS} train.steps={more} --processes 3")).ok();
    for step in steps {
        assert!(checkpoint(run, step) == checkpoint("straight", step), "step {step}");
    }
    folder.train(&format!("output={run} {WORDS} train.steps={more} --resume --processes 3")).ok();
    assert!(checkpoint(run, more) == checkpoint("straight", more), "it does not go on exactly");
    folder.train(&format!("output={run} {WORDS} train.steps={} --resume", more + 1)).ok();
    folder.assert_no_leftovers();
}

/// It is stopped first, so that the others wait for it in the middle of a sum.
#[test]
fn a_rank_dies_in_a_sum() {
    let folder = Folder::of_run();
    let words = format!("{WORDS} train.steps=1000 ranks.timeout=60");
    let mut ranks = start(&folder, 0..3, 3, &train_words(&words));
    ranks[0].until("the second step", || logged(&folder, "out") >= 2);
    ranks[1].signal("STOP");
    sleep(Duration::from_secs(1));
    let before = logged(&folder, "out");
    ranks[1].signal("KILL");
    assert_eq!(ranks.remove(1).wait().code, None);
    let said = ["another rank is gone", "--resume auto goes on from the last checkpoint"];
    all_fail(ranks, Duration::from_secs(20), &said);
    assert_eq!(logged(&folder, "out"), before, "no step was made of half a sum");
    all_is_whole(&folder, "out");
}

/// The network stalls, or a rank hangs: the others wait as long as they were told to.
#[test]
fn a_rank_that_is_silent() {
    let folder = Folder::of_run();
    let words = format!("{WORDS} train.steps=1000 ranks.timeout=3");
    let mut ranks = start(&folder, 0..3, 3, &train_words(&words));
    ranks[0].until("the second step", || logged(&folder, "out") >= 2);
    let silent = ranks.remove(2);
    silent.signal("STOP");
    all_fail(ranks, Duration::from_secs(15), &["no answer from another rank for 3 s (ranks.timeout)"]);
    silent.signal("KILL");
    silent.wait();
    all_is_whole(&folder, "out");
}

/// Images are drawn, and one waits at the barrier for the others. Whoever was asked to stop by then has stopped, not failed.
#[test]
fn a_rank_dies_at_a_barrier() {
    let folder = Folder::of_run();
    let model = common::fixture(common::SD1);
    let prompts = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let words = common::generate_words(model.to_str().unwrap(), &prompts, "--steps 200 --batch 1 --out out");
    let mut ranks = start(&folder, 0..3, 3, &words);
    ranks[1].until("the first image", || !folder.names("out").is_empty());
    ranks[1].signal("STOP");
    let of_rank_0 = || (0..3).all(|i| folder.names("out").iter().any(|name| name.starts_with(&format!("{i:05}-"))));
    ranks[0].until("the images of rank 0", of_rank_0);
    sleep(Duration::from_millis(500));
    ranks[0].signal("INT");
    sleep(Duration::from_millis(200));
    ranks[1].signal("KILL");
    assert_eq!(ranks.remove(1).wait().code, None);
    let stopped = ranks.remove(0).wait();
    assert_eq!((stopped.code, stopped.stderr.lines().count()), (Some(130), 1), "{stopped:?}");
    all_fail(ranks, Duration::from_secs(20), &["another rank is gone", "--resume draws the others"]);
}

#[test]
fn rank_0_dies_while_it_writes_a_checkpoint() {
    let folder = Folder::of_run();
    let words = format!("{WORDS} train.steps=1000");
    let mut ranks = start(&folder, 0..3, 3, &train_words(&words));
    let writes =
        || folder.names("out/checkpoints").iter().any(|name| name.ends_with(".partial") && name.starts_with('.'));
    let since = Instant::now();
    loop {
        assert!(!ranks[0].has_ended() && since.elapsed() < Duration::from_secs(60));
        if !(writes() && logged(&folder, "out") >= 2) {
            continue;
        }
        ranks[0].signal("STOP");
        sleep(Duration::from_millis(20));
        if writes() {
            break; // and it stays so
        }
        ranks[0].signal("CONT");
    }
    ranks[0].signal("KILL");
    assert_eq!(ranks.remove(0).wait().code, None);
    assert!(writes());
    all_fail(ranks, Duration::from_secs(20), &["another rank is gone"]);
    all_is_whole(&folder, "out");
}

#[test]
fn a_rank_that_never_comes() {
    let folder = Folder::of_run();
    let mut ranks = start(&folder, 0..2, 3, &train_words("ranks.timeout=2"));
    let first = ranks.remove(0);
    all_fail(ranks, Duration::from_secs(15), &["the ranks did not come together at 127.0.0.1:"]);
    first.wait().error(&[
        "rank 0 of 3: the ranks did not come together",
        "within 2 s (ranks.timeout)",
        "no sign of rank 2",
    ]);
    for verb in [
        "generate --model none --prompt a --out out --ranks-timeout 1",
        "evaluate --bench dsg --prompts none --images none --ranks-timeout 1",
    ] {
        let mut ranks = start(&folder, 0..1, 3, &verb.split(' ').collect::<Vec<_>>());
        ranks.remove(0).wait().error(&["did not come together", "within 1 s (--ranks-timeout)"]);
        let words = verb.replace("timeout 1", "timeout 0");
        folder.comat(&words.split(' ').collect::<Vec<_>>()).usage(&["--ranks-timeout", "must be above 0"]);
    }

    let ranks = start(&folder, 1..2, 3, &train_words("ranks.timeout=2")); // nobody serves the store
    all_fail(ranks, Duration::from_secs(15), &["cannot reach rank 0 (or torchrun) at 127.0.0.1:"]);
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let variables = [("RANK", "0"), ("WORLD_SIZE", "3"), ("MASTER_ADDR", "127.0.0.1")];
    let mut variables: Vec<_> = variables.map(|(name, value)| (name, value.to_owned())).into();
    variables.push(("MASTER_PORT", taken.local_addr().unwrap().port().to_string()));
    let rank = folder.start_in(&train_words(""), &variables);
    rank.wait().error(&["rank 0 of 3: cannot listen at 127.0.0.1:", "address already in use"]);
    assert!(!folder.exists("out"));
}

/// Ranks that were given other settings, or other prompts, are told so.
#[test]
fn ranks_that_do_not_go_together() {
    let folder = Folder::of_run();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let start = |rank: &str, words: &str| {
        let variables = [("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_PORT", &port), ("MASTER_ADDR", "127.0.0.1")];
        folder.start_in(&train_words(words), &variables.map(|(name, value)| (name, value.to_owned())))
    };
    let ranks = [start("0", ""), start("1", "seed=4")];
    for rank in ranks {
        rank.wait().error(&["rank 1 has another configuration", "than rank 0"]);
    }
    assert!(!folder.exists("out"));
}

/// Whoever is asked to stop, all of them stop after the same step.
#[test]
fn ctrl_c_on_one_rank() {
    let folder = Folder::of_run();
    let words = format!("{WORDS} train.steps=1000");
    let mut ranks = start(&folder, 0..3, 3, &train_words(&words));
    ranks[0].until("the second step", || logged(&folder, "out") >= 2);
    ranks[2].signal("INT");
    let done: Vec<Done> = ranks.into_iter().map(Running::wait).collect();
    assert!(done.iter().all(|done| done.code == Some(0) && done.stderr.is_empty()), "{done:?}");
    let step = logged(&folder, "out");
    assert_eq!(
        done[0].stdout,
        format!("Stopped after step {step}; it is saved. Go on with the same command and --resume\n")
    );
    assert!(done[1].stdout.is_empty() && done[2].stdout.is_empty());
    all_is_whole(&folder, "out");
}

/// Processes that a process has started.
fn children(of: &Running) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", of.id())).unwrap();
    list.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_process_that_watches_over_the_ranks() {
    let folder = Folder::of_run();
    let run = |output: &str| {
        let words = format!("output={output} {WORDS} train.steps=1000 --processes 3");
        let mut run = folder.start(&train_words(&words));
        run.until("the second step", || logged(&folder, output) >= 2);
        run
    };

    // one rank dies: the others say so and end, and so does it
    let watched = run("out");
    signal(children(&watched)[1], "KILL");
    let done = watched.wait();
    assert_eq!(done.code, Some(128 + 9), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 2, "{done:?}");
    assert!(done.stderr.lines().all(|line| line.contains("another rank is gone")), "{done:?}");
    all_is_whole(&folder, "out");

    // Ctrl-C is passed on
    let stopped = run("stopped");
    stopped.signal("INT");
    let done = stopped.wait();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.starts_with("Stopped after step "), "{done:?}");
    assert_eq!(
        done.stderr,
        "Stopping; the step under way is given up, all before it is saved. Ctrl-C once more stops at once, without saving.\n"
    );

    // it dies itself
    let killed = run("killed");
    let ranks = children(&killed);
    killed.signal("KILL");
    killed.wait();
    let since = Instant::now();
    while ranks.iter().any(|rank| is_alive(*rank)) {
        assert!(since.elapsed() < Duration::from_secs(10), "the ranks live on");
        sleep(Duration::from_millis(10));
    }
}
