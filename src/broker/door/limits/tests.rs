//! The limits held against hosts, networks and sensors.

use super::*;

const HOST: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7)));
const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

fn limits(plan: BrokerLimits) -> Arc<Limits> {
    Arc::new(Limits { total_max: plan.connections, plan, inside: Mutex::default() })
}

#[test]
fn one_host_cannot_take_every_place_and_places_come_back() {
    let limits = limits(BrokerLimits { connections: 600, per_address: 200, ..BrokerLimits::default() });
    let now = Instant::now();
    let all = |address| std::iter::from_fn(|| limits.admit(address, now).ok()).collect::<Vec<Pass>>();
    let passes = all(HOST);
    assert_eq!(passes.len(), 200);
    assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::FullFromThere));
    let local = all(LOOPBACK);
    assert_eq!(local.len(), 400);
    assert_eq!(limits.admit(None, now).err(), Some(NoPlace::Full));
    drop(passes);
    assert!(limits.admit(HOST, now).is_ok());
    drop(local);
    assert_eq!(limits.lock().connections.count, 0);
}

#[test]
fn this_boxs_own_clients_leave_places_and_some_of_the_rate_for_others() {
    let limits = limits(BrokerLimits { connections: 640, rate: Rate(80), ..BrokerLimits::default() });
    let mut now = Instant::now();
    let mut local = Vec::new();
    loop {
        match limits.admit([LOOPBACK, None][local.len() % 2], now) {
            Ok(pass) => local.push(pass),
            Err(NoPlace::TooFast) => {
                let other = limits.admit(HOST, now).expect("some of the rate is left");
                drop(other);
                now += Duration::from_secs(1);
            }
            Err(full) => break assert_eq!((full, local.len()), (NoPlace::FullFromHere, 635)),
        }
    }
    let others: Vec<Pass> = (0..5).filter_map(|_| limits.admit(HOST, now + BURST).ok()).collect();
    assert_eq!((others.len(), limits.admit(HOST, now + BURST).err()), (5, Some(NoPlace::Full)));
    drop((local, others));
    assert_eq!(limits.lock().connections.count, 0);
}

#[test]
fn sensors_from_ever_other_addresses_have_half_as_many_places_and_take_none_of_the_others() {
    let limits = limits(BrokerLimits { connections: 100, ..BrokerLimits::default() });
    let now = Instant::now();
    let address = |n| IpAddr::from([10, 1, 0, n]);
    let sensors: Vec<Pass> = (0..200).filter_map(|n| limits.admit_sensor(address(n), now).ok()).collect();
    assert_eq!(sensors.len(), 50);
    assert_eq!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).err(), Some(NoPlace::FullOfSensors));
    let others: Vec<Pass> = (0..200).filter_map(|n| limits.admit(Some(address(n)), now).ok()).collect();
    assert_eq!((others.len(), limits.admit(None, now).err()), (100, Some(NoPlace::Full)));
    drop(others);
    drop(sensors);
    assert!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).is_ok());
    let inside = limits.lock();
    assert_eq!((inside.connections.count, inside.sensors.count), (0, 0));
}

#[test]
fn sensors_that_claim_to_be_a_host_or_its_network_keep_it_neither_out_nor_waiting() {
    let plan = BrokerLimits { connections: 1000, per_address: 10, rate: Rate(100), ..BrokerLimits::default() };
    for host in ["10.0.0.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().expect("an address")) {
        let (limits, now) = (limits(plan), Instant::now());
        let claims: Vec<Pass> = (0..1000).filter_map(|_| limits.admit_sensor(host, now).ok()).collect();
        assert_eq!((claims.len(), limits.admit_sensor(host, now).err()), (10, Some(NoPlace::FullFromThere)));
        let others = (0..u16::MAX).filter(|n| {
            let [high, low] = n.to_be_bytes();
            limits.admit_sensor(IpAddr::from([10, 1, high, low]), now).is_ok()
        });
        assert_eq!(others.count(), 240, "with those ten five seconds' worth of half of the rate");
        assert_eq!(limits.admit_sensor(IpAddr::from([10, 2, 0, 1]), now).err(), Some(NoPlace::TooFast));
        let own: Vec<Pass> = (0..1000).filter_map(|_| limits.admit(Some(host), now).ok()).collect();
        assert_eq!(own.len(), 10, "{host}");
        assert_eq!((0..1000).filter(|_| limits.admit(None, now).is_ok()).count(), 427);
    }
}

#[test]
fn a_host_that_connects_again_and_again_is_slowed_down_alone_and_forgotten_in_the_end() {
    let plan = BrokerLimits { rate: Rate(100), rate_per_address: Rate(10), ..BrokerLimits::default() };
    let (limits, mut now) = (limits(plan), Instant::now());
    let burst = (0..1000).filter(|_| limits.admit(HOST, now).is_ok()).count();
    assert_eq!(burst, 50, "five seconds' worth");
    assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::TooFastFromThere));
    assert!(limits.admit(LOOPBACK, now).is_ok());
    now += Duration::from_secs(1);
    assert_eq!((0..1000).filter(|_| limits.admit(HOST, now).is_ok()).count(), 10);
    now += Duration::from_secs(60);
    assert_eq!((0..1000).filter(|_| limits.admit(LOOPBACK, now).is_ok()).count(), 437);
    assert_eq!(limits.admit(None, now).err(), Some(NoPlace::TooFast));
    for n in 0..=ADDRESSES {
        now += Duration::from_secs(1);
        let [high, low] = u16::try_from(n).expect("few").to_be_bytes();
        drop(limits.admit(Some(IpAddr::from([10, 1, high, low])), now));
    }
    assert!(limits.lock().connections.hosts.0.len() <= ADDRESSES + 1);
    drop(limits.admit(HOST, now));
    assert!(limits.lock().connections.hosts.0.len() < 10);
}

#[test]
fn one_ipv6_network_has_half_also_where_that_is_less_than_one_address_may_have() {
    let plan = BrokerLimits { connections: 200, rate: Rate(40), ..BrokerLimits::default() };
    assert!(plan.per_address > 100 && plan.rate_per_address.0 > 20, "as it is set");
    let (limits, now) = (limits(plan), Instant::now());
    let address = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]));
    assert_eq!((0..1000).filter(|_| limits.admit(address(0), now).is_ok()).count(), 100, "from one host");
    assert_eq!(limits.admit(address(0), now).err(), Some(NoPlace::TooFastFromNetwork), "five seconds' worth of 20");
    let later = now + Duration::from_secs(60);
    let kept: Vec<Pass> = (0..1000).filter_map(|n| limits.admit(address(n), later).ok()).collect();
    assert_eq!(kept.len(), 100);
    assert_eq!(limits.admit(address(0), later).err(), Some(NoPlace::FullFromNetwork));
    assert!(limits.admit(HOST, later).is_ok(), "others find a place");
}

#[test]
fn a_whole_ipv6_network_has_half_of_the_places_and_each_address_in_it_its_own_and_a_mapped_one_is_what_it_maps() {
    let limits = limits(BrokerLimits { connections: 20, per_address: 2, ..BrokerLimits::default() });
    let (now, address) = (Instant::now(), |text: &str| text.parse::<IpAddr>().ok());
    let admit = |text: &str| limits.admit(address(text), now);
    let mut inside = Vec::new();
    for host in 1..=5 {
        for _ in 0..2 {
            inside.push(admit(&format!("2001:db8::{host}")).expect("a place"));
        }
        let full = if host == 5 { NoPlace::FullFromNetwork } else { NoPlace::FullFromThere };
        let other = if host == 5 { 6 } else { host };
        assert_eq!(admit(&format!("2001:db8::{other}")).err(), Some(full));
    }
    inside.push(admit("2001:db8:0:1::2").expect("another network"));
    inside.push(admit("::ffff:10.0.0.7").expect("a place"));
    inside.push(limits.admit(HOST, now).expect("the second"));
    assert_eq!(limits.admit(HOST, now).err(), Some(NoPlace::FullFromThere));
    inside.push(admit("::1").expect("this machine"));
    inside.truncate(9);
    assert!(admit("2001:db8::6").is_ok(), "one has gone");
    inside.clear();
    for host in 1..=11 {
        inside.push(admit(&format!("fe80::{host}")).expect("of many on one link each by itself"));
    }
}
