//! The receiving half of a participant: which feeds it has, wants and waits for, and what to ask next. One
//! negotiation at a time; feeds that come meanwhile ride on the next. Pure.
//!
//! Feeds that go are unsubscribed, as janus.js's examples do. Janus 1.1.2 mostly answers "no change": where a publisher
//! stops or its session ends, it has sent an offer of its own (`autoupdate`); where one says `leave`, it offers nothing
//! before the next subscription.

use std::collections::{BTreeMap, VecDeque};

/// A feed that Janus announced but does not know when asked is tried so often, a second apart.
const TRIES_MAX: u8 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Feed {
    Wanted {
        tries: u8,
    },
    Requested {
        tries: u8,
    },
    Subscribed,
    /// Janus said 428.
    Missing {
        tries: u8,
    },
    /// Was subscribed, and left.
    Gone {
        asked: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// No handle yet.
    #[default]
    Absent,
    Attached,
    /// Joined as a subscriber.
    Live,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Attach,
    Join(Vec<u64>),
    /// Either may be empty.
    Update {
        subscribe: Vec<u64>,
        unsubscribe: Vec<u64>,
    },
    Restart,
    /// Have this offer answered.
    Answer(String),
}

#[derive(Default, Debug)]
pub struct Subscriber {
    handle: Option<u64>,
    stage: Stage,
    /// A request (attach, join, update, restart) waits for its answer.
    asking: bool,
    /// What waits is a restart: any offer is its answer, for Janus may merge it with one that was under way.
    restarting: bool,
    /// An offer of Janus's is with the media path.
    answering: bool,
    /// Our answer is with Janus.
    starting: bool,
    offers: VecDeque<String>,
    feeds: BTreeMap<u64, Feed>,
    restart: bool,
}

impl Subscriber {
    pub fn handle(&self) -> Option<u64> {
        self.handle
    }

    /// True when there is, or may soon be, something to receive.
    pub fn expects_feeds(&self) -> bool {
        self.feeds.values().any(|state| !matches!(state, Feed::Missing { tries: TRIES_MAX.. } | Feed::Gone { .. }))
    }

    pub fn announced(&mut self, feeds: &[u64]) {
        for &feed in feeds {
            let state = self.feeds.entry(feed).or_insert(Feed::Wanted { tries: 0 });
            if matches!(state, Feed::Missing { .. } | Feed::Gone { .. }) {
                *state = Feed::Wanted { tries: 0 };
            }
        }
    }

    pub fn gone(&mut self, feed: u64) {
        match self.feeds.get_mut(&feed) {
            Some(state @ (Feed::Subscribed | Feed::Requested { .. })) => *state = Feed::Gone { asked: false },
            Some(Feed::Wanted { .. } | Feed::Missing { .. }) => drop(self.feeds.remove(&feed)),
            Some(Feed::Gone { .. }) | None => {}
        }
    }

    pub fn attached(&mut self, handle: u64) {
        self.handle = Some(handle);
        self.stage = Stage::Attached;
        self.asking = false;
    }

    /// Join, update or restart was accepted.
    pub fn accepted(&mut self) {
        self.asking = false;
        self.stage = Stage::Live;
        self.feeds.retain(|_, state| !matches!(state, Feed::Gone { asked: true }));
        for state in self.feeds.values_mut() {
            if matches!(state, Feed::Requested { .. }) {
                *state = Feed::Subscribed;
            }
        }
    }

    /// Join or update was refused because a feed is not there: the one that Janus named, or any of them. True when a
    /// later [`Subscriber::retry`] is of use.
    pub fn no_such_feed(&mut self, named: Option<u64>) -> bool {
        self.asking = false;
        let known = named.is_some_and(|feed| matches!(self.feeds.get(&feed), Some(Feed::Requested { .. })));
        let mut again = false;
        for (feed, state) in &mut self.feeds {
            if let Feed::Gone { asked } = state {
                *asked = false;
            }
            let Feed::Requested { tries } = *state else { continue };
            *state = match named {
                // The others did nothing wrong, and go on at once.
                Some(named) if known && named != *feed => Feed::Wanted { tries },
                // It named one that we know to be gone by now; but a server that always does must not keep us busy.
                Some(_) if !known && tries + 1 < TRIES_MAX => Feed::Wanted { tries: tries + 1 },
                Some(_) if !known => Feed::Missing { tries: 0 },
                _ => Feed::Missing { tries: tries + 1 },
            };
            again |= matches!(*state, Feed::Missing { tries } if tries < TRIES_MAX);
        }
        again
    }

    /// Join, update or restart was refused for good.
    pub fn refused(&mut self) {
        (self.asking, self.restarting) = (false, false);
        self.feeds.retain(|_, state| !matches!(state, Feed::Requested { .. } | Feed::Gone { asked: true }));
    }

    pub fn retry(&mut self) {
        for state in self.feeds.values_mut() {
            if let Feed::Missing { tries } = *state
                && tries < TRIES_MAX
            {
                *state = Feed::Wanted { tries };
            }
        }
    }

    pub fn offered(&mut self, sdp: String) {
        if std::mem::take(&mut self.restarting) {
            self.asking = false;
        }
        self.offers.push_back(sdp);
    }

    /// The media path answered; the answer goes to Janus now.
    pub fn answered(&mut self) {
        self.answering = false;
        self.starting = true;
    }

    pub fn answer_failed(&mut self) {
        self.answering = false;
    }

    /// Janus took our answer (or refused it: then the next offer is as good a chance).
    pub fn started(&mut self) {
        self.starting = false;
    }

    pub fn want_restart(&mut self) {
        self.restart = self.stage == Stage::Live;
    }

    pub fn next_step(&mut self) -> Option<Step> {
        if self.answering || self.starting {
            return None;
        }
        if let Some(offer) = self.offers.pop_front() {
            self.answering = true;
            return Some(Step::Answer(offer));
        }
        if self.asking {
            return None;
        }
        if self.restart {
            (self.restart, self.asking, self.restarting) = (false, true, true);
            return Some(Step::Restart);
        }
        let wanted = self.feeds.values().any(|state| matches!(state, Feed::Wanted { .. }));
        let step = match self.stage {
            Stage::Absent if wanted => Step::Attach,
            Stage::Attached if wanted => Step::Join(self.take_wanted()),
            Stage::Live => {
                let (subscribe, unsubscribe) = (self.take_wanted(), self.take_gone());
                if subscribe.is_empty() && unsubscribe.is_empty() {
                    return None;
                }
                Step::Update { subscribe, unsubscribe }
            }
            Stage::Absent | Stage::Attached => return None,
        };
        self.asking = true;
        Some(step)
    }

    fn take_gone(&mut self) -> Vec<u64> {
        let mut taken = Vec::new();
        for (feed, state) in &mut self.feeds {
            if let Feed::Gone { asked } = state
                && !std::mem::replace(asked, true)
            {
                taken.push(*feed);
            }
        }
        taken
    }

    fn take_wanted(&mut self) -> Vec<u64> {
        let mut taken = Vec::new();
        for (feed, state) in &mut self.feeds {
            if let Feed::Wanted { tries } = *state {
                *state = Feed::Requested { tries };
                taken.push(*feed);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscribe(feeds: &[u64]) -> Step {
        Step::Update { subscribe: feeds.to_vec(), unsubscribe: vec![] }
    }

    fn live(feeds: &[u64]) -> Subscriber {
        let mut s = Subscriber::default();
        s.announced(feeds);
        assert_eq!(s.next_step(), Some(Step::Attach));
        s.attached(9);
        assert_eq!(s.next_step(), Some(Step::Join(feeds.to_vec())));
        s.accepted();
        s.offered("first".into());
        assert_eq!(s.next_step(), Some(Step::Answer("first".into())));
        s.answered();
        s.started();
        assert_eq!(s.next_step(), None);
        s
    }

    #[test]
    fn nothing_to_receive_asks_nothing() {
        assert_eq!(Subscriber::default().next_step(), None);
    }

    #[test]
    fn feeds_that_come_during_a_negotiation_ride_together_on_the_next() {
        let mut s = live(&[1]);
        s.announced(&[2]);
        assert_eq!(s.next_step(), Some(subscribe(&[2])));
        s.announced(&[3]);
        s.announced(&[4, 2]);
        assert_eq!(s.next_step(), None, "an update is under way");
        s.accepted();
        s.offered("second".into());
        assert_eq!(s.next_step(), Some(Step::Answer("second".into())));
        assert_eq!(s.next_step(), None, "the answer is being made");
        s.answered();
        assert_eq!(s.next_step(), None, "the answer is with Janus");
        s.started();
        assert_eq!(s.next_step(), Some(subscribe(&[3, 4])));
    }

    #[test]
    fn an_offer_of_januss_own_is_answered_while_our_update_waits() {
        let mut s = live(&[1, 2]);
        s.announced(&[3]);
        assert_eq!(s.next_step(), Some(subscribe(&[3])));
        s.gone(1);
        s.offered("without 1".into());
        assert_eq!(s.next_step(), Some(Step::Answer("without 1".into())));
    }

    #[test]
    fn feeds_that_left_are_unsubscribed_with_the_next_update() {
        let mut s = live(&[1, 2, 3]);
        s.gone(1);
        assert_eq!(s.next_step(), Some(Step::Update { subscribe: vec![], unsubscribe: vec![1] }));
        s.gone(2);
        s.gone(3);
        s.announced(&[3, 4]);
        s.accepted();
        assert_eq!(s.next_step(), Some(Step::Update { subscribe: vec![3, 4], unsubscribe: vec![2] }));
        // Refused as a whole: asked for again.
        s.no_such_feed(Some(4));
        assert_eq!(s.next_step(), Some(Step::Update { subscribe: vec![3], unsubscribe: vec![2] }));
        s.accepted();
        assert_eq!(s.next_step(), None);
    }

    #[test]
    fn a_feed_that_left_while_it_was_asked_for_is_unsubscribed() {
        let mut s = live(&[1]);
        s.announced(&[2]);
        assert_eq!(s.next_step(), Some(subscribe(&[2])));
        s.gone(2);
        s.accepted();
        assert_eq!(s.next_step(), Some(Step::Update { subscribe: vec![], unsubscribe: vec![2] }));
        assert!(s.expects_feeds(), "the first is still there");
        s.gone(1);
        assert!(!s.expects_feeds());
    }

    #[test]
    fn a_feed_that_left_before_it_was_asked_for_is_forgotten() {
        let mut s = live(&[1]);
        s.announced(&[2]);
        s.gone(2);
        assert_eq!(s.next_step(), None);
    }

    #[test]
    fn a_named_missing_feed_waits_and_the_others_go_on() {
        let mut s = Subscriber::default();
        s.announced(&[1, 2]);
        s.next_step();
        s.attached(9);
        s.next_step();
        assert!(s.no_such_feed(Some(2)));
        assert_eq!(s.next_step(), Some(Step::Join(vec![1])));
        s.accepted();
        s.retry();
        assert_eq!(s.next_step(), Some(subscribe(&[2])));
    }

    #[test]
    fn a_feed_missing_for_good_is_given_up() {
        let mut s = Subscriber::default();
        s.announced(&[1]);
        s.next_step();
        s.attached(9);
        let mut tries = 0;
        while let Some(step) = s.next_step() {
            assert_eq!(step, Step::Join(vec![1]));
            tries += 1;
            s.no_such_feed(None);
            s.retry();
        }
        assert_eq!(tries, TRIES_MAX);
        s.announced(&[1]);
        assert_eq!(s.next_step(), Some(Step::Join(vec![1])), "announced anew, tried anew");
    }

    #[test]
    fn a_restart_waits_for_its_turn_and_needs_a_transport() {
        let mut s = Subscriber::default();
        s.want_restart();
        assert_eq!(s.next_step(), None);
        let mut s = live(&[1]);
        s.offered("again".into());
        s.next_step();
        s.want_restart();
        assert_eq!(s.next_step(), None);
        s.answered();
        s.started();
        assert_eq!(s.next_step(), Some(Step::Restart));
        s.announced(&[2]);
        assert_eq!(s.next_step(), None);
        s.offered("restarted".into());
        assert_eq!(s.next_step(), Some(Step::Answer("restarted".into())));
        s.answered();
        s.started();
        assert_eq!(s.next_step(), Some(subscribe(&[2])), "not blocked by a restart that got no event of its own");
    }
}
