//! What a bus survives: its own panic, under supervision, and connections that come and go.

use crate::plc;
use crate::rig;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ironbridge::app::supervisor::{BusParts, WatchedBus};
use ironbridge::config::plan::{BusPlan, DevicePlan, Plan, TagPlan};
use ironbridge::field::carrier::{Opener, Opening, Wire};
use ironbridge::field::{Bus, FieldCommand, Pauses, Plans};
use ironbridge::flow::clock::{Clock, TimeSource};
use ironbridge::flow::hub::{Durable, Standing, hub};
use ironbridge::flow::notice::{Phase, notices};
use ironbridge::flow::operate::Operation;
use ironbridge::flow::progress::Progress;
use ironbridge::flow::stop::Stop;
use ironbridge::model::command::{Outcome, Refusal};
use ironbridge::model::quality::{Cause, Quality};
use ironbridge::model::tag::{Access, Address, BusIx, DataType, DeviceIx, Table, TagIx};
use ironbridge::model::time::Boot;
use ironbridge::model::value::Value;
use plc::{Framing, Plc};
use rig::Rig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// Works when opened for the first time, panics the second time, works from then on.
struct Moody(Plc, Arc<AtomicUsize>);

impl Opener for Moody {
    fn open(&mut self) -> Opening<'_> {
        assert!(self.1.fetch_add(1, Ordering::Relaxed) != 1, "a bug in a driver");
        self.0.open()
    }
}

struct TokioTime(Instant);

impl TimeSource for TokioTime {
    fn boot_micros(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).expect("no test takes that long")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_one_bus_leaves_the_others_running_its_tags_bad_and_itself_to_be_built_anew() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    plan.buses.push(BusPlan { name: "other".into(), ..plan.buses[0].clone() });
    for ix in 0..2 {
        let device =
            DevicePlan { tags: ix as usize..ix as usize + 1, ..DevicePlan::plain(&format!("d{ix}"), BusIx(ix), 1) };
        plan.devices.push(device);
        let address = Address { table: Table::Holding, start: 7, bit: None };
        plan.tags.push(TagPlan::plain(&format!("t{ix}"), DeviceIx(ix), address, DataType::Uint16));
    }
    let (plc, opened) = (Plc::new(Framing::Tcp), Arc::new(AtomicUsize::new(0)));
    let (steady, moody) = (Plc::new(Framing::Tcp), (plc.clone(), Arc::clone(&opened)));
    let (hub, _latest, mut end) = hub(plan.tags.iter().map(|tag| tag.class).collect());
    let clock = Clock::new(Arc::new(TokioTime(Instant::now())), Boot(1), 0);
    let (stop, (told, mut events)) = (Stop::new(), notices());
    let plan = Arc::new(plan);
    let parts = BusParts {
        plans: Plans::new(tokio::sync::watch::Sender::new(Arc::clone(&plan)).subscribe()),
        plan,
        hub,
        clock,
        stop: stop.clone(),
        pauses: Pauses::default(),
        notices: told,
        progress: Progress::default(),
        memory: None,
        build: Arc::new(move |parts: &BusParts, bus| {
            let opener: Box<dyn Opener> = match bus {
                BusIx(0) => Box::new(Moody(moody.0.clone(), Arc::clone(&moody.1))),
                _ => Box::new(steady.clone()),
            };
            let shared = parts.shared();
            let (bus, handle) = Bus::over(opener, Arc::clone(&parts.plan), bus, &parts.hub, shared);
            (bus.into(), handle)
        }),
    };
    let tasks: Vec<_> = (0..2).map(|ix| tokio::spawn(WatchedBus::new(parts.clone(), BusIx(ix)).0.run())).collect();
    drop(parts);

    // It works, loses its connection, panics while it opens the next one, and is back.
    let (mut moods, mut steady_goods) = (Vec::new(), 0);
    let until = Instant::now() + Duration::from_secs(20);
    let mut closed = false;
    while let Ok(Some(record)) = tokio::time::timeout_at(until, end.records.recv()).await {
        let Durable::Batch(batch) = record else { continue };
        for sample in batch.samples {
            match sample.tag {
                TagIx(0) if moods.last() != Some(&sample.quality) => moods.push(sample.quality),
                TagIx(0) => {}
                _ => steady_goods += usize::from(sample.quality == Quality::Good),
            }
        }
        if !moods.is_empty() && !std::mem::replace(&mut closed, true) {
            plc.next([plc::Fault::Close]);
        }
    }
    assert_eq!(moods, [Quality::Good, Quality::Bad(Cause::Stale), Quality::Good]);
    assert!(steady_goods >= 19, "the other bus heard nothing of it: {steady_goods}");
    assert_eq!(opened.load(Ordering::Relaxed), 3);
    let told = events.recv().await.expect("told");
    assert_eq!((told.event, told.subject.as_str()), ("bus_restarted", "bus"));
    stop.begin();
    for task in tasks {
        task.await.expect("ends");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_panicked_does_not_look_well_before_it_is_and_is_remembered_until_it_has_lived_long_enough() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    let (plc, opened) = (Plc::new(Framing::Tcp), Arc::new(AtomicUsize::new(0)));
    let (hub, latest, _) = hub(plan.tags.iter().map(|tag| tag.class).collect());
    let (plan, stop, (told, mut events)) = (Arc::new(plan), Stop::new(), notices());
    let moody = (plc.clone(), opened);
    let parts = BusParts {
        plans: Plans::new(tokio::sync::watch::Sender::new(Arc::clone(&plan)).subscribe()),
        plan,
        hub,
        clock: Clock::new(Arc::new(TokioTime(Instant::now())), Boot(1), 0),
        stop: stop.clone(),
        pauses: Pauses::default(),
        notices: told,
        progress: Progress::default(),
        memory: None,
        build: Arc::new(move |parts: &BusParts, bus| {
            let opener = Box::new(Moody(moody.0.clone(), Arc::clone(&moody.1)));
            let (bus, handle) = Bus::over(opener, Arc::clone(&parts.plan), bus, &parts.hub, parts.shared());
            (bus.into(), handle)
        }),
    };
    let (bus, slot) = WatchedBus::new(parts, BusIx(0));
    let task = tokio::spawn(bus.run());
    let stands = || {
        let (stats, reports) = (Arc::clone(&slot.load().stats), latest.reports());
        (reports.first().map(|report| report.standing), stats.connected.get(), stats.restarts.get())
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stands(), (Some(Standing::Answering), 1, 0));
    plc.next([plc::Fault::Close]);
    let event = events.recv().await.expect("told");
    assert_eq!((event.event, event.phase), ("bus_restarted", Phase::Active));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stands(), (Some(Standing::Down), 0, 1), "between two lives");
    assert!(latest.reports()[0].requests > 0, "with its last counts");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stands(), (Some(Standing::Answering), 1, 1));
    let since = Instant::now();
    let event = events.recv().await.expect("told");
    assert_eq!((event.event, event.phase), ("bus_restarted", Phase::Cleared));
    assert!(since.elapsed() > Duration::from_secs(590), "{:?}", since.elapsed());
    stop.begin();
    task.await.expect("ends");
}

/// Panics whenever it is opened.
struct Broken;

impl Opener for Broken {
    fn open(&mut self) -> Opening<'_> {
        panic!("a bug in a driver")
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_panicked_holds_up_no_device_that_moves_away_from_it_or_to_it() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    rig::device(&mut plan, 1);
    rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    let (hub, _latest, mut end) = hub(plan.tags.iter().map(|tag| tag.class).collect());
    let (stop, (told, mut events)) = (Stop::new(), notices());
    let elsewhere = plan.clone();
    plan.devices[0].bus = None;
    let newest = tokio::sync::watch::Sender::new(Arc::new(plan));
    let plans = Plans::new(newest.subscribe());
    let mut followed = plans.followed();
    let parts = BusParts {
        plan: plans.newest(),
        plans,
        hub,
        clock: Clock::new(Arc::new(TokioTime(Instant::now())), Boot(1), 0),
        stop: stop.clone(),
        pauses: Pauses::default(),
        notices: told,
        progress: Progress::default(),
        memory: None,
        build: Arc::new(|parts: &BusParts, bus| {
            let (bus, handle) = Bus::over(Box::new(Broken), Arc::clone(&parts.plan), bus, &parts.hub, parts.shared());
            (bus.into(), handle)
        }),
    };
    let task = tokio::spawn(WatchedBus::new(parts, BusIx(0)).0.run());
    for _ in 0..5 {
        events.recv().await.expect("it panics again"); // by now it waits for 16 seconds
    }
    let came = Arc::new(elsewhere);
    for plan in [Arc::clone(&came), plan_without(&came), came] {
        let (comes, asked) = (plan.devices[0].bus.is_some(), Instant::now());
        newest.send_replace(Arc::clone(&plan));
        let follows = |now: &Option<Arc<_>>| now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &plan));
        followed.wait_for(follows).await.expect("it is there");
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        let silent = end.records.try_recv().ok();
        let stale =
            |record| matches!(record, Durable::Batch(batch) if batch.samples[0].quality == Quality::Bad(Cause::Stale));
        assert_eq!(silent.map(stale), comes.then_some(true), "what is on it does not look good");
    }
    stop.begin();
    task.await.expect("ends");
}

fn plan_without(plan: &Plan) -> Arc<Plan> {
    let mut plan = plan.clone();
    plan.devices[0].bus = None;
    Arc::new(plan)
}

/// A connection that knows how many of its kind there are.
struct Counted {
    wire: Box<dyn Wire>,
    alive: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, out)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

/// Opens counted connections, one at a time.
struct Counting(Plc, Arc<AtomicUsize>);

impl Opener for Counting {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async move {
            let wire = self.0.open().await?;
            let before = self.1.fetch_add(1, Ordering::Relaxed);
            assert_eq!(before, 0, "the old connection is closed before a new one is opened");
            Ok(Box::new(Counted { wire, alive: Arc::clone(&self.1) }) as Box<dyn Wire>)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_under_load_is_found_within_the_backoff_and_leaves_nothing_behind() {
    for framing in [Framing::Tcp, Framing::Rtu] {
        let mut plan = rig::plan(rig::link(framing));
        for unit in 1..=4 {
            rig::device(&mut plan, unit);
            let tag = rig::tag(&mut plan, Table::Holding, 5, DataType::Uint16);
            plan.tags[tag.0 as usize].poll = Duration::from_millis(20);
        }
        let (plc, alive) = (Plc::new(framing), Arc::new(AtomicUsize::new(0)));
        plc.think(Duration::from_millis(4));
        let mut rig = Rig::run_over(plan, Box::new(Counting(plc.clone(), Arc::clone(&alive))));
        for outage in 0..40u64 {
            rig.collect(Duration::from_millis(700 + 13 * outage)).await;
            plc.refuse_to_open(true);
            plc.next([plc::Fault::Close]);
            rig.sample(TagIx(0), rig::is_bad).await;
            rig.collect(Duration::from_secs(outage * outage % 97)).await;
            assert_eq!(alive.load(Ordering::Relaxed), 0, "{framing:?}: closed while it is gone");
            plc.refuse_to_open(false);
            let back = Instant::now();
            rig.sample(TagIx(3), rig::good).await;
            let took = back.elapsed();
            assert!(took <= Duration::from_secs(31), "{framing:?}, outage {outage}: {took:?}");
        }
        assert_eq!(rig.handle.stats.reconnects.get(), 40);
        rig.stop.begin();
        (&mut rig.task).await.expect("ends");
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_still_being_journalled_when_the_bus_ends_is_refused_not_forgotten() {
    for lanes in 1..=2 {
        let mut plan = rig::plan(rig::tcp("nowhere:502"));
        for unit in 1..=2 {
            rig::device(&mut plan, unit);
            rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
        }
        let openers = (0..lanes).map(|_| Box::new(Plc::new(Framing::Tcp)) as Box<dyn Opener>).collect();
        let mut rig = Rig::run_lanes(plan, openers, |bus| bus);
        rig.sample(TagIx(1), rig::good).await;
        let place = rig.handle.commands.clone().try_reserve_owned().expect("room");
        rig.stop.begin();
        tokio::time::sleep(Duration::from_secs(5)).await; // a disk that takes its time
        let (reply, outcome) = oneshot::channel();
        let deadline = rig.clock.now().after(Duration::from_secs(120));
        let plan = Arc::clone(&rig.plan);
        drop(place.send(FieldCommand { plan, tag: TagIx(1), value: Value::Uint(1), deadline, reply }));
        let outcome = timeout(Duration::from_secs(60), outcome)
            .await
            .expect("the router waits for it, and the stop for the router");
        assert_eq!(outcome.expect("an answer"), Outcome::Refused(Refusal::Stopping), "{lanes} lanes");
        (&mut rig.task).await.expect("ends");
    }
}

/// Can be opened only while the other side is there; else an attempt takes its five seconds.
struct Redialled(Plc, Arc<AtomicBool>);

impl Opener for Redialled {
    fn open(&mut self) -> Opening<'_> {
        Box::pin(async move {
            for _ in 0..500 {
                if self.1.load(Ordering::Relaxed) {
                    return self.0.open().await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(io::ErrorKind::TimedOut.into())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_connection_was_lost_is_not_good_for_as_long_as_an_attempt_to_open_it_takes() {
    let mut plan = rig::plan(rig::link(Framing::RtuOverTcp));
    rig::device(&mut plan, 1);
    let tag = rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    plan.tags[tag.0 as usize].poll = Duration::from_millis(100);
    let (plc, there) = (Plc::new(Framing::RtuOverTcp), Arc::new(AtomicBool::new(true)));
    let mut rig = Rig::run_over(plan, Box::new(Redialled(plc.clone(), Arc::clone(&there))));
    rig.sample(tag, rig::good).await;
    let lose = |there: &AtomicBool| {
        there.store(false, Ordering::Relaxed);
        plc.next([plc::Fault::Close]);
    };
    lose(&there);
    tokio::time::sleep(Duration::from_millis(800)).await;
    there.store(true, Ordering::Relaxed);
    let meanwhile = rig.collect(Duration::from_secs(3)).await;
    assert!(meanwhile.iter().all(rig::good), "who dials again at once costs no bad sample");
    lose(&there);
    let lost = Instant::now();
    rig.sample(tag, rig::is_bad).await;
    assert!(lost.elapsed() < Duration::from_millis(1500), "{:?}", lost.elapsed());
    tokio::time::sleep(Duration::from_millis(700)).await;
    there.store(true, Ordering::Relaxed);
    let back = Instant::now();
    rig.sample(tag, rig::good).await;
    assert!(back.elapsed() < Duration::from_secs(1), "the attempt goes on: {:?}", back.elapsed());
}

/// Nothing of it is polled: no answer ever says that it is there.
#[tokio::test(start_paused = true)]
async fn a_device_that_is_only_written_stands_well_with_a_connection_and_its_bus_is_no_longer_down() {
    let mut plan = rig::plan(rig::link(Framing::RtuOverTcp));
    rig::device(&mut plan, 0);
    rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    plan.tags[0].access = Access::Write;
    let plc = Plc::new(Framing::RtuOverTcp);
    plc.refuse_to_open(true);
    let (tell, mut events) = notices();
    let rig = Rig::run_lanes(plan, vec![Box::new(plc.clone())], |bus| bus.telling(&tell));
    let told = events.recv().await.expect("told");
    assert_eq!((told.event, told.phase), ("bus_down", Phase::Active));
    assert_eq!(rig.reports().await[&0].standing, Standing::Down);
    plc.refuse_to_open(false);
    let told = events.recv().await.expect("told");
    assert_eq!((told.event, told.phase), ("bus_down", Phase::Cleared));
    assert_eq!(rig.reports().await[&0].standing, Standing::Answering);
    for (operation, standing) in [(Operation::Pause, Standing::Paused), (Operation::Resume, Standing::Answering)] {
        rig.handle.switches.ask(DeviceIx(0), operation).expect("it is on this bus");
        assert_eq!(rig.reports().await[&0].standing, standing);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_only_written_is_as_well_off_as_its_neighbours_that_answer() {
    let mut plan = rig::plan(rig::tcp("nowhere:502"));
    for unit in [1, 2] {
        rig::device(&mut plan, unit);
        rig::tag(&mut plan, Table::Holding, 7, DataType::Uint16);
    }
    plan.tags[1].access = Access::Write;
    let plc = Plc::new(Framing::Tcp);
    let mut rig = Rig::run_over(plan, Box::new(plc.clone()));
    rig.sample(TagIx(0), rig::good).await;
    assert_eq!(rig.reports().await[&1].standing, Standing::Answering);
    plc.refuse_to_open(true);
    plc.next([plc::Fault::Close]);
    rig.sample(TagIx(0), rig::is_bad).await;
    assert_eq!(rig.reports().await[&1].standing, Standing::Down);
    plc.refuse_to_open(false);
    rig.sample(TagIx(0), rig::good).await;
    assert_eq!(rig.reports().await[&1].standing, Standing::Answering);
}
