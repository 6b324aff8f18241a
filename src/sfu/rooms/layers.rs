//! Which of a sender's simulcast layers a receiver gets.

use super::Sfu;
use crate::sfu::client::{ClientKey, Slot};
use std::time::Instant;

impl Sfu {
    /// The receiver's slot that shows a source or another layer of it, and what it shows.
    pub(super) fn shown_layer(&self, receiver: ClientKey, sender: ClientKey, index: usize) -> Option<(usize, usize)> {
        let from = self.client(sender)?;
        let shows = |s: &Slot| {
            let (who, what) = s.shows?;
            (who == sender && from.are_layers(what, index)).then_some(what)
        };
        self.client(receiver)?.slots.iter().enumerate().find_map(|(slot, s)| Some((slot, shows(s)?)))
    }

    /// Highest layer that participants of a room get from now on, 0 the lowest: all of them, or one by its name. False
    /// if there is nobody.
    pub fn limit_layers(&mut self, now: Instant, room: &str, name: Option<&str>, layer_max: u8) -> bool {
        self.now = now;
        let members = self.rooms.get(room).cloned().unwrap_or_default();
        let mut found = false;
        for key in members {
            let Some(client) = self.client_mut(key).filter(|c| name.is_none_or(|n| *c.name == *n)) else { continue };
            client.layer_max = layer_max;
            found = true;
            (0..client.slots.len()).for_each(|slot| self.choose_layer(key, slot));
        }
        found
    }

    /// Layers come and go without a word.
    pub(super) fn choose_layers(&mut self) {
        for key in 0..self.clients.len() {
            let slots = self.client(key).map_or(0, |c| c.slots.len());
            (0..slots).for_each(|slot| self.choose_layer(key, slot));
        }
    }

    /// Gives a slot the layer it should have: from its next key frame on, and at once where nothing was shown yet.
    pub(super) fn choose_layer(&mut self, receiver: ClientKey, slot: usize) {
        let Some(client) = self.client(receiver) else { return };
        let Some(place) = client.slots.get(slot) else { return };
        let Some((sender, shown)) = place.shows else { return };
        let (layer_max, waits, now) = (client.layer_max, place.waits, self.now);
        let Some(from) = self.client_mut(sender) else { return };
        let Some(best) = from.best_layer(shown, layer_max, now) else { return };
        let entry = (receiver, slot);
        if best != shown && from.sources[best].switching.contains(&entry) {
            return;
        }
        from.sources.iter_mut().for_each(|s| s.switching.retain(|e| *e != entry));
        if best == shown {
            return;
        }
        from.sources[best].switching.push(entry);
        if waits {
            self.switch(sender, best);
        }
        self.ask_for_key_frame(sender, best);
    }

    /// Whoever waited for this layer gets it.
    pub(super) fn switch(&mut self, sender: ClientKey, index: usize) {
        let Some(client) = self.client_mut(sender) else { return };
        for (receiver, slot) in std::mem::take(&mut client.sources[index].switching) {
            let shown = self.shown_layer(receiver, sender, index);
            let Some((_, before)) = shown.filter(|(s, _)| *s == slot) else { continue };
            let Some(client) = self.client_mut(sender) else { return };
            client.sources[before].subscribers.retain(|e| *e != (receiver, slot));
            client.sources[index].subscribers.push((receiver, slot));
            if let Some(client) = self.client_mut(receiver) {
                let place = &mut client.slots[slot];
                place.show(sender, index, place.pt());
            }
            self.stats.layer_switches += 1;
        }
    }
}
