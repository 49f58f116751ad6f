//! Several mappings are broken together: all tickets in one step, one barrier for all.
//!
//! Problem: two who want the same mappings in different orders must neither deadlock nor try again and again.
//! Idea: the locks are taken in the order of the mappings' numbers, and all tickets under all of them: so of
//! two who want the same mappings one is before the other in all of them.

use std::sync::Arc;

use crate::raw::adapt::{Executed, Mode, Needs};
use crate::raw::entry::{BreakState, Ranges, What};
use crate::raw::record::{Record, Shut};
use crate::raw::told;
use crate::raw::turns::{Turn, Undo};
use crate::raw::wait::Group;
use crate::raw::wakes::Wakes;
use crate::sync::mutant;

impl Record {
    /// Closes ranges of several mappings, and takes all their tickets in one step. `parts` are in the
    /// order of their numbers, each mapping once.
    pub(crate) fn close_together(
        parts: &[(&'static Record, Ranges)],
        group: &Arc<Group>,
    ) -> Result<Vec<Turn>, Shut> {
        let mut all_wakes = Vec::with_capacity(parts.len());
        let mut recalled = Vec::with_capacity(parts.len());
        let mut locked: Vec<_> = parts
            .iter()
            .map(|(record, _)| record.inner.lock())
            .collect();
        if locked.iter().any(|inner| inner.closed) {
            return Err(Shut);
        }
        let mut ids = Vec::with_capacity(parts.len());
        for ((record, ranges), inner) in parts.iter().zip(&mut locked) {
            let mut wakes = Wakes::default();
            inner.queue.recall(ranges.as_slice(), &mut wakes);
            if told::LISTENED {
                recalled.push(inner.queue.count_leases(ranges.as_slice()));
            }
            let what = What::Break(BreakState::Queued);
            let id = record.write_down(inner, ranges.clone(), what);
            if let Some(entry) = inner.queue.get(id) {
                entry.bell = group.bell();
            }
            ids.push(id);
            all_wakes.push((*record, wakes));
        }
        let modes = locked.iter_mut().map(|inner| &mut inner.mode);
        let needs: Vec<Needs> = modes.map(Mode::begin_break).collect();
        let strongest = match mutant!("weakest_barrier") {
            true => needs.iter().min(),
            false => needs.iter().max(),
        };
        let execute = || strongest.map_or(Executed::Fence, |n| n.execute());
        let early = mutant!("closed_together_late").then(execute);
        // Everything is closed before the first look, so one barrier does for all.
        for ((record, _), inner) in parts.iter().zip(&mut locked) {
            record.publish_gate(inner);
        }
        let executed = early.unwrap_or_else(execute);
        let mut turns = Vec::with_capacity(parts.len());
        for (n, inner) in locked.iter_mut().enumerate() {
            let (record, wakes) = &mut all_wakes[n];
            // A barrier everywhere begins with a fence, also where it is refused.
            let reached = inner.mode.learn(match needs[n] {
                Needs::Fence => Executed::Fence,
                Needs::Everywhere | Needs::EverywhereTimed => executed,
            });
            turns.push(record.look(inner, ids[n], reached, wakes));
        }
        drop(locked);
        let undo = parts.iter().zip(&ids);
        let undo: Vec<Undo> = undo
            .map(|((record, _), id)| Undo { record, id: *id })
            .collect();
        Record::wake_together(all_wakes);
        for (((_, ranges), turn), leases) in parts.iter().zip(&turns).zip(recalled) {
            told::broke(!turn.drained);
            told::recalled(ranges.as_slice(), leases);
        }
        undo.into_iter().for_each(Undo::keep);
        Ok(turns)
    }

    /// [`wake`](Self::wake), for several mappings: a waker that panics keeps no wake from anybody.
    fn wake_together(all: Vec<(&'static Record, Wakes)>) {
        let mut together = Wakes::default();
        for (record, wakes) in all {
            record.note(&wakes);
            together.append(wakes);
        }
        together.ring();
    }
}
