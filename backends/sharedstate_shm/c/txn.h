/* txn.h - several keys at once, all or nothing, for readers without locks too.
 *
 * A commit locks the transaction mutex and then every stripe it touches, in
 * order; checks every expectation; takes and fills every block; and then:
 *
 *   1  reserves a slot for each new key         (a reserved slot reads as a tombstone)
 *   2  writes the redo record: slot, new word   (nobody looks at it yet)
 *   3  state = PREPARED
 *   4  makes the stripes' versions odd, kind TXN (readers now queue for the lock)
 *   5  state = COMMITTED                        <- the commit point, one store
 *   6  stores the slots
 *   7  makes the versions even                  (readers see the new world)
 *   8  state = IDLE, unlocks
 *
 * Why that is atomic.  For readers: no slot changes before all versions are
 * odd (4 before 6), and no version is even again before all slots have changed
 * (6 before 7).  So whoever has seen one new entry finds each of the other
 * stripes odd, and queues for a lock that is given up in step 8, or even again
 * and new.  For a crash: with the owner dead, a stripe with an odd version is
 * repaired by whoever locks it next, and it alone, from the record: COMMITTED,
 * store its slots; otherwise nothing was stored and nothing is to be.  Both are
 * absolute and may be repeated.  A stripe that is even again was whole already
 * (7), or never part of it (before 4), and needs nothing, whatever the state.
 *
 * The record is written only while IDLE.  Whoever finds another state under
 * the transaction mutex waits, stripe by stripe, until all versions in question
 * are even (settle), so no repair ever reads a record that is not its own.
 *
 * Thread safety: the transaction mutex guards the record for writing; repair
 * reads it while an odd version keeps it from being written.
 *
 * Invariants:
 *   X1  state != IDLE: txn_stripes names every stripe whose version may be odd
 *       on behalf of the record.  All words of the set are stored before the
 *       state is PREPARED, and not again before it has been IDLE.
 *   X2  COMMITTED: the record is complete, and all of those were odd at once.
 */
#ifndef SS_TXN_H
#define SS_TXN_H

#include "lock.h"

/* Repair: with the stripe's version odd for a transaction, store its part. */
int ss_txn_replay(struct ss_held *h);

/* Take the transaction mutex for a moment, and settle what a dead owner of it left. */
int ss_txn_settle(struct ss_region *r, uint64_t wait);

#endif
