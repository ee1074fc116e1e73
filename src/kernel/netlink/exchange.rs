//! Requests and their answers on a [`Socket`]: batches, transactions, queries.

use std::time::Duration;

use super::batch::Batch;
use super::error::{Fault, Refusal};
use super::flag;
use super::message::{DONE, ERROR, FIRST_OWN, Messages, decode_error, done_error};
use super::socket::Socket;

/// Messages in one `send`. More is not faster, and answers to all of these fit the smallest receive buffer.
const CHUNK: usize = 200;
/// How often a dump is started before it counts as failed.
const DUMP_ATTEMPTS: u32 = 10;
/// The pause after the first interrupted dump; each further one is that much longer.
const DUMP_PAUSE: Duration = Duration::from_millis(2);

/// Which message of a transaction failed first, and why. Nothing of the transaction was done, except where the
/// fault is [`Fault::Unknown`].
#[derive(Debug, thiserror::Error)]
#[error("message {index} of the transaction: {fault}")]
pub struct TransactionFault {
    /// Index into the batch, counting BATCH_BEGIN.
    pub index: usize,
    /// Why.
    pub fault: Fault,
}

/// How far one reading of a query got.
enum Reading {
    Complete,
    Interrupted,
}

impl Socket {
    /// Send all messages, in order, and say for each whether the kernel did it. Not atomic: a refused message leaves
    /// the others done. Answers that were lost are [`Fault::Unknown`], never a guess.
    ///
    /// One acknowledgement is asked for each `send` of at most 200 messages: the kernel reports refusals unasked.
    pub fn apply(&mut self, batch: &mut Batch) -> Vec<Result<(), Fault>> {
        let n_messages = batch.len();
        let mut results = Vec::with_capacity(n_messages);
        if batch.is_too_long() {
            results.extend((0..n_messages).map(|_| Err(Fault::TooLong)));
            return results;
        }
        while results.len() < n_messages {
            let first = results.len();
            let end = n_messages.min(first.saturating_add(CHUNK));
            self.apply_chunk(batch, first, end, &mut results);
        }
        results
    }

    fn apply_chunk(&mut self, batch: &mut Batch, first: usize, end: usize, results: &mut Vec<Result<(), Fault>>) {
        let n_messages = end.saturating_sub(first);
        let base = self.reserve(n_messages);
        batch.ask_ack(end.saturating_sub(1));
        if let Err(fault) = self.send(batch.window(first, end, base)) {
            // One fault, many messages: the number is what matters.
            let errno = fault.errno();
            results.extend((0..n_messages).map(|_| {
                Err(errno.map_or(Fault::TooLong, |number| Fault::Socket(std::io::Error::from_raw_os_error(number))))
            }));
            return;
        }
        let start = results.len();
        results.extend((0..n_messages).map(|_| Err(Fault::Unknown)));
        let Some(slots) = results.get_mut(start..) else { return };
        if self.collect(base, slots) {
            // Everything before the last answer was answered too, or went well in silence.
            for slot in slots.iter_mut().filter(|slot| matches!(slot, Err(Fault::Unknown))) {
                *slot = Ok(());
            }
        } else {
            self.discard_queued();
        }
    }

    /// Read refusals into `slots` until the last message is answered. False where an answer was lost on the way:
    /// what is still unknown then stays so.
    fn collect(&mut self, base: u32, slots: &mut [Result<(), Fault>]) -> bool {
        let last = slots.len().saturating_sub(1);
        let mut lost = false;
        loop {
            match self.receive(!lost) {
                Ok(Some(datagram)) => {
                    let mut answered = false;
                    for message in Messages::new(datagram).filter(|message| message.kind == ERROR) {
                        let Some(index) = index_of(message.sequence, base, slots.len()) else { continue };
                        let answer = decode_error(&message).map_or(Ok(()), |refusal| Err(Fault::Refused(refusal)));
                        answered |= index == last;
                        if let Some(slot) = slots.get_mut(index) {
                            *slot = answer;
                        }
                    }
                    if answered {
                        return !lost;
                    }
                }
                Ok(None) => return false,
                Err(Fault::Unknown) if !lost => lost = true,
                Err(_) => return false,
            }
        }
    }

    /// Send all messages in one datagram, as an nftables transaction must be: BATCH_BEGIN first, BATCH_END last, both
    /// written by the caller. All or nothing.
    ///
    /// # Errors
    /// The first refusal in the order of the messages: later ones are its consequences.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<(), TransactionFault> {
        let n_messages = batch.len();
        if batch.is_too_long() {
            return Err(TransactionFault { index: 0, fault: Fault::TooLong });
        }
        let base = self.reserve(n_messages);
        // Kernels before 6.10 never acknowledge BATCH_END, so the last operation is asked.
        let asked = n_messages.saturating_sub(2);
        batch.ask_ack(asked);
        self.send(batch.window(0, n_messages, base)).map_err(|fault| TransactionFault { index: 0, fault })?;
        let mut first_refused: Option<(usize, Refusal)> = None;
        let (mut acknowledged, mut lost, mut any) = (false, false, false);
        loop {
            // All answers are queued when `send` returns: wait for the first, then take what is there.
            match self.receive(!any && !lost) {
                Ok(Some(datagram)) => {
                    any = true;
                    for message in Messages::new(datagram).filter(|message| message.kind == ERROR) {
                        let Some(index) = index_of(message.sequence, base, n_messages) else { continue };
                        match decode_error(&message) {
                            None => acknowledged |= index == asked,
                            Some(refusal) => {
                                if first_refused.as_ref().is_none_or(|(first, _)| index < *first) {
                                    first_refused = Some((index, refusal));
                                }
                            }
                        }
                    }
                }
                Ok(None) => break,
                Err(Fault::Unknown) if !lost => lost = true,
                Err(fault) => return Err(TransactionFault { index: 0, fault }),
            }
        }
        match first_refused {
            Some((index, refusal)) => Err(TransactionFault { index, fault: Fault::Refused(refusal) }),
            None if acknowledged && !lost => Ok(()),
            None => Err(TransactionFault { index: 0, fault: Fault::Unknown }),
        }
    }

    /// Send the one message of `request` and gather what `decode` makes of each answer (type and payload); `None`
    /// leaves an answer out. For dumps set [`flag::DUMP`] in the request; without it, one object is asked for.
    ///
    /// A dump that was interrupted by a change (`NLM_F_DUMP_INTR`) or lost answers is thrown away and started again,
    /// with growing pauses, ten times in all.
    ///
    /// # Errors
    /// The kernel's refusal, [`Fault::Interrupted`], or a failing socket.
    pub fn query<T>(
        &mut self,
        request: &mut Batch,
        mut decode: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let mut found = Vec::new();
        self.query_into(request, &mut found, &mut decode)?;
        Ok(found)
    }

    /// As [`query`](Socket::query), into a vector to reuse, which is emptied first.
    ///
    /// # Errors
    /// As for `query`.
    pub fn query_into<T>(
        &mut self,
        request: &mut Batch,
        found: &mut Vec<T>,
        decode: &mut dyn FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<(), Fault> {
        if request.is_too_long() {
            return Err(Fault::TooLong);
        }
        let mut pause = DUMP_PAUSE;
        for attempt in 1..=DUMP_ATTEMPTS {
            found.clear();
            if !is_dump(request) {
                request.ask_ack(0);
            }
            let sequence = self.reserve(1);
            self.send(request.window(0, 1, sequence))?;
            match self.read_answers(sequence, found, decode)? {
                Reading::Complete => return Ok(()),
                Reading::Interrupted if attempt < DUMP_ATTEMPTS => {
                    // This thread is the room's own and waits for the kernel.
                    std::thread::sleep(pause);
                    pause = pause.saturating_mul(2);
                }
                Reading::Interrupted => {}
            }
        }
        found.clear();
        Err(Fault::Interrupted { attempts: DUMP_ATTEMPTS })
    }

    /// Read to the end of the answers even when interrupted: a socket runs one dump at a time.
    fn read_answers<T>(
        &mut self,
        sequence: u32,
        found: &mut Vec<T>,
        decode: &mut dyn FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Reading, Fault> {
        let mut reading = Reading::Complete;
        loop {
            let datagram = match self.receive(true) {
                Ok(Some(datagram)) => datagram,
                Ok(None) => return Err(Fault::Unknown),
                Err(Fault::Unknown) => {
                    reading = Reading::Interrupted;
                    continue;
                }
                Err(fault) => return Err(fault),
            };
            for message in Messages::new(datagram).filter(|message| message.sequence == sequence) {
                if message.flags & flag::DUMP_INTERRUPTED != 0 {
                    reading = Reading::Interrupted;
                }
                match message.kind {
                    ERROR => return decode_error(&message).map_or(Ok(reading), |refusal| Err(Fault::Refused(refusal))),
                    DONE => {
                        return match done_error(&message) {
                            // Netfilter ends an interrupted dump this way.
                            Some(refusal) if refusal.errno == Refusal::EINTR => Ok(Reading::Interrupted),
                            Some(refusal) => Err(Fault::Refused(refusal)),
                            None => Ok(reading),
                        };
                    }
                    kind if kind >= FIRST_OWN => found.extend(decode(kind, message.payload)),
                    _ => {}
                }
            }
        }
    }

    /// The first of `n_messages` sequence numbers never used before on this socket (until they wrap).
    fn reserve(&mut self, n_messages: usize) -> u32 {
        let base = self.sequence;
        self.sequence = base.wrapping_add(u32::try_from(n_messages).unwrap_or(u32::MAX));
        base
    }
}

/// Which message of a window a sequence number belongs to.
fn index_of(sequence: u32, base: u32, n_messages: usize) -> Option<usize> {
    usize::try_from(sequence.wrapping_sub(base)).ok().filter(|index| *index < n_messages)
}

fn is_dump(request: &Batch) -> bool {
    Messages::new(request.bytes()).next().is_some_and(|message| message.flags & flag::DUMP == flag::DUMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_outside_the_window_belong_to_nobody() {
        assert_eq!(index_of(7, 5, 3), Some(2));
        assert_eq!(index_of(8, 5, 3), None);
        assert_eq!(index_of(4, 5, 3), None);
        assert_eq!(index_of(1, u32::MAX, 3), Some(2), "numbers wrap");
    }
}
