//! Last-N: everybody gets the video of the few who talked last, and is told whose that is.

use super::Sfu;
use crate::sfu::client::{Client, ClientKey};
use crate::sfu::terms::Forwarded;
use std::sync::Arc;
use str0m::media::MediaKind;

impl Sfu {
    /// What sessions are to be told.
    pub fn poll_told(&mut self) -> Option<Forwarded> {
        self.told.pop_front()
    }

    /// Somebody who sends video has been let in.
    pub(super) fn meet_speaker(&mut self, key: ClientKey) {
        let Some(room) = self.client(key).filter(|c| c.sends_video()).map(|c| c.room.clone()) else { return };
        if self.config.last_n.is_some() {
            self.speakers.entry(room.clone()).or_default().join(key);
            self.choose_senders(&room);
        }
    }

    pub(super) fn part_from_speaker(&mut self, key: ClientKey, room: &Arc<str>) {
        let Some(speakers) = self.speakers.get_mut(room) else { return };
        speakers.leave(key);
        if speakers.is_empty() {
            self.speakers.remove(room);
        }
        self.choose_senders(room);
    }

    /// Somebody's talkspurt is long enough to count.
    pub(super) fn spoke(&mut self, key: ClientKey) {
        let Some(room) = self.client(key).map(|c| c.room.clone()) else { return };
        if let Some(speakers) = self.speakers.get_mut(&room) {
            speakers.spoke(key);
            self.choose_senders(&room);
        }
    }

    /// Whether last-N lets a receiver have a sender's video.
    pub(super) fn is_chosen(&self, receiver: ClientKey, sender: ClientKey) -> bool {
        let forwarded = |c: &Client| c.forwarded.as_ref().is_some_and(|f| f.contains(&sender));
        self.config.last_n.is_none() || self.client(receiver).is_some_and(forwarded)
    }

    fn choose_senders(&mut self, room: &Arc<str>) {
        for receiver in self.rooms.get(room).cloned().unwrap_or_default() {
            self.choose_for(receiver);
        }
    }

    /// Gives a receiver the senders it should have, and takes the others away.
    pub(super) fn choose_for(&mut self, receiver: ClientKey) {
        let Some(n) = self.config.last_n else { return };
        let Some(client) = self.client(receiver).filter(|c| c.connected) else { return };
        let speakers = self.speakers.get(&client.room);
        let chosen = speakers.map_or_else(Vec::new, |s| s.chosen(receiver, n as usize));
        let alike = |a: &[ClientKey], b: &[ClientKey]| a.len() == b.len() && a.iter().all(|k| b.contains(k));
        if client.forwarded.as_ref().is_some_and(|f| alike(f, &chosen)) {
            return;
        }
        let changed = client.forwarded.is_some();
        let shown = client.slots.iter().enumerate().filter(|(_, s)| s.kind() == MediaKind::Video);
        let shown = shown.filter_map(|(slot, s)| Some((slot, s.shows?.0)));
        let over: Vec<_> = shown.filter(|(_, sender)| !chosen.contains(sender)).collect();
        self.stats.speaker_switches += u64::from(changed);
        for (slot, sender) in over {
            if let Some(sender) = self.client_mut(sender) {
                let is_other = |e: &(ClientKey, usize)| *e != (receiver, slot);
                for source in &mut sender.sources {
                    source.subscribers.retain(is_other);
                    source.switching.retain(is_other);
                }
            }
            if let Some(client) = self.client_mut(receiver) {
                client.slots[slot].clear();
            }
        }
        if let Some(client) = self.client_mut(receiver) {
            client.forwarded = Some(chosen);
        }
        self.tell_forwarded(receiver);
        self.fill_slots(receiver);
    }

    /// Everybody is told again: who did not listen yet, or listens to this server only since a move, learns it now.
    pub(super) fn tell_all_again(&mut self) {
        if self.config.last_n.is_some() {
            (0..self.clients.len()).for_each(|key| self.tell_forwarded(key));
        }
    }

    fn tell_forwarded(&mut self, receiver: ClientKey) {
        let Some(client) = self.client(receiver) else { return };
        let Some(forwarded) = &client.forwarded else { return };
        let name = |key: &ClientKey| self.client(*key).map(|c| c.name.to_string());
        let senders = forwarded.iter().filter_map(name).collect();
        let session = client.ufrag.clone();
        self.told.push_back(Forwarded { session, senders });
    }
}
