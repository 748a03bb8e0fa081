//! How fast one client may follow links.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use ipnet::IpNet;

use super::Settings;
use super::client::{client_of, network_of};
use crate::clock::Clock;
use crate::domain::rate::{Bucket, Rate};
use crate::domain::time::Micros;

/// The most clients that are remembered. Beyond that those who have been quiet are forgotten, and if there are none, all.
const MAX_CLIENTS: usize = 50_000;

/// Admits requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    rate: Option<Rate>,
    trusted: Vec<IpNet>,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Limiter {
    pub(super) fn new(settings: &Settings, clock: Clock) -> Self {
        let rate = Rate::per_second(settings.requests_per_second.into(), 1);
        Self(Arc::new(Inner {
            clock,
            rate: rate.map(|rate| rate.with_burst(settings.burst)),
            trusted: settings.trusted_proxies.clone(),
            buckets: Mutex::default(),
        }))
    }

    /// Whether a request may go on.
    pub(super) fn admits(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let Some(rate) = self.0.rate else { return true };
        let (now, client) = (self.0.clock.now(), network_of(client_of(peer, headers, &self.0.trusted)));
        let mut buckets = self.0.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(&client) {
            make_room(&mut buckets, now);
        }
        buckets.entry(client).or_default().take(rate, now)
    }
}

fn make_room(buckets: &mut HashMap<IpAddr, Bucket>, now: Micros) {
    buckets.retain(|_, bucket| !bucket.is_full(now));
    // Else every further client would have all looked through.
    if buckets.len() > MAX_CLIENTS / 2 {
        buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_client_has_its_own_rate_and_few_are_remembered() {
        let (clock, hand) = Clock::manual(Micros(1_767_225_600_000_000));
        let settings = Settings { requests_per_second: 1, burst: 2, trusted_proxies: Vec::new(), connections: 1 };
        let limiter = Limiter::new(&settings, clock);
        let admits = |number: u32| limiter.admits(Ipv4Addr::from_bits(number).into(), &HeaderMap::new());
        assert_eq!([admits(1), admits(1), admits(1), admits(2)], [true, true, false, true]);
        hand.advance(Duration::from_secs(1));
        assert_eq!([admits(1), admits(1)], [true, false]);
        let count = || limiter.0.buckets.lock().unwrap().len();
        for number in 0..200_000 {
            admits(number);
            assert!(count() <= MAX_CLIENTS);
        }
        hand.advance(Duration::from_secs(10));
        for number in 0..50_000 {
            admits(1_000_000 + number);
        }
        assert!(count() <= MAX_CLIENTS);
    }
}
