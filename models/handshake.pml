/* The handshake between pinners and breakers under TSO: pin, unpin, break, reopen, and the change between
 * asymmetric and fenced barriers, step by step as src/raw does them.
 *
 * README.md says what is modelled, how to run it, and which line stands for which function. A word in
 * square brackets names that function; tests/model_tags.rs holds the names to the code.
 *
 * One transition is at most one access to shared memory. Steps are joined only where nothing is lost:
 * - a fence or a locked instruction with the access behind it: the store buffer may also have emptied
 *   itself any time before;
 * - what the record's lock alone protects with the neighbouring step under the same lock: nobody else
 *   looks.
 */

/* ---- size --------------------------------------------------------------------------------------- */

#ifndef PINNERS
#define PINNERS 2
#endif
#ifndef BREAKERS
#define BREAKERS 2
#endif
/* Stores that a store buffer has room for. With a full one, a CPU waits. */
#ifndef DEPTH
#define DEPTH 2
#endif
/* Breaks of each breaker; 0: again and again until it has enough, as the pinners always do. */
#ifndef BREAKS
#define BREAKS 0
#endif

/* Further: BRIDGE, pins and breaks of two pages; GAP, pins on both sides of what is closed; WORDS, slots of
 * three words; CANCEL, breaks that go away before their proof, and breaks that only try; MAY_FAIL (with
 * CANCEL), barriers that are not to be had; CLOSE, breakers that close the guard for good; FAIR, for
 * liveness; CHECK_I1. All other names in #ifdef are
 * seeded bugs, and two ways to do it that are right, see README.md. */

/* ---- memory, store buffers, fences -------------------------------------------------------------- */

/* Pages: A, B, C. A closed or pinned range is a set of them. */
#define PAGES 7
#define FENCED 8

/* Addresses. The gate: the closed pages and FENCED. (Word and table of the code in one: who reads a table
 * believes it only if the word is the same before and after.) */
#define GATE 0
/* A pinner has one slot: it holds one pin at a time, and then its slot is free again. */
#ifdef WORDS
/* As it is: three words. */
#define OWNER(p) (1 + 3 * (p))
#define FIRST(p) (2 + 3 * (p))
#define END(p) (3 + 3 * (p))
#define ADDRESSES (1 + 3 * PINNERS)
#define TAKEN 1
#define SEEN 2
#else
/* In one word: the pages of the pin, 0 for free. */
#define OWNER(p) (1 + (p))
#define ADDRESSES (1 + PINNERS)
#endif

/* [publish_gate], and unlocking in the same step: without the lock one sees only that the gate changes. */
#define PUBLISH(word) mem[GATE] = (word)

#define CPUS (PINNERS + BREAKERS)
#include "tso.pml"

/* ---- the record --------------------------------------------------------------------------------- */

bit locked;

/* Of the mode, what [begin_break], [learn] and [count_down] change. How the countdown stands is left
 * open: it may run out whenever it counts, and any break may begin one or go without. */
bit fenced, trusted;

/* The queue: each breaker has one entry at most. */
#define NONE 0
#define ENTERING 1 /* within [enter] */
#define QUEUED 2
#define DRAINING 3
#define DRAINED 4
#define REFUSED 5 /* [refuse] */
byte state[BREAKERS];
byte pages[BREAKERS];
byte remaining[BREAKERS];
#define NEVER 7 /* there was no barrier */
/* The other breaker's entry is before this one. */
bit behind[BREAKERS];

/* An entry's bell: 0, nobody listens. */
#define LISTENING 1
#define RUNG 2
byte bell[BREAKERS];
/* For each CPU, the entries that it has to wake behind the unlocking: those that had a listener when their
 * bell was taken out, for nobody can begin to listen to it later. */
byte wakes[CPUS];

/* What only the checker knows: the pages that each pinner may use now. */
byte held[PINNERS];

#if BREAKERS > 1
#define CLOSED (pages[0] | pages[1]) /* [closed] */
#define OTHER(b) (1 - (b))
#define BLOCKED(b) (behind[b] && (pages[OTHER(b)] & pages[b]) && !CLOSES(OTHER(b))) /* [keeps_waiting] */
#define ANY(s, r) (IS(0, s, r) || IS(1, s, r))
#else
#define CLOSED pages[0]
#define BLOCKED(b) false
#define ANY(s, r) IS(0, s, r)
#endif
#define IS(b, s, r) (state[b] == (s) && (pages[b] & (r)))
#define COUNTS_DOWN(b, r) (IS(b, DRAINING, r) && remaining[b] != NEVER)

#if PINNERS > 1
#define HELD (held[0] | held[1])
#else
#define HELD held[0]
#endif

#define BIT(n) (1 << (n))

#ifdef CLOSE
/* Who has called [close], for good: then the word says that all is closed, whatever is published, and asks
 * for no fence. */
bit final;
bit closing[BREAKERS];
/* A waiter of [close] was told that nobody is left. */
bit over;
#define CLOSES(b) closing[b]
#define WORD (final -> PAGES : CLOSED | (fenced -> FENCED : 0))
#else
#define CLOSES(b) false
#define WORD (CLOSED | (fenced -> FENCED : 0))
#endif

#ifdef WAITER_WORD
byte waiters; /* in place of the gate, for unpin to look at */
#endif
#if defined(TRUST_EARLY) || defined(TRUST_BEHIND)
#define UNLOCKED_BARRIER
#endif

/* I2: who has a proof, or could have it for the asking, has no pin under it. I1: once the call that closes
 * has returned, no pin is granted. */
inline grant(me_, r_) {
    held[me_] = r_;
    assert(!ANY(DRAINED, r_)) /* I2: pinned under a proof */
#ifdef CHECK_I1
    ; assert(!ANY(QUEUED, r_) && !ANY(DRAINING, r_)) /* I1: pinned behind a closed gate */
#endif
#ifdef CLOSE
    ; assert(!over) /* I2: pinned for ever behind the end */
#endif
}

/* [drain], [set_drained], [conclude], behind the scan: n pins are left that entry b waits for. */
inline conclude(me_, b_, n_) {
    if
    :: n_ == 0 ->
        state[b_] = DRAINED;
        assert(!(HELD & pages[b_])); /* I2: drained above a pin */
        if
        :: bell[b_] == LISTENING -> wakes[me_] = wakes[me_] | BIT(b_)
        :: else
        fi
    :: else ->
        state[b_] = DRAINING;
        remaining[b_] = n_
    fi;
    n_ = 0
}

/* ---- the scan ----------------------------------------------------------------------------------- */

#ifdef WORDS
/* Which pages two ends mean. */
#define RANGE(from, to) ((from) < (to) -> (BIT(to) - 1) & ~(BIT(from) - 1) : 0)

/* [snapshot] */
inline look_at(me_, p_, b_, n_) {
    owner = LOAD(me_, OWNER(p_));
    if
    :: owner == 0
    :: else ->
        from = LOAD(me_, FIRST(p_));
        to = LOAD(me_, END(p_));
        if
        :: (RANGE(from, to) & pages[b_]) == 0
        :: else ->
#ifdef SNAPSHOT_ONCE
            n_++
#else
            atomic { /* the mark: a compare-exchange, which fails if the slot is free now */
                drain_all(me_);
                if
                :: !(owner & SEEN) && mem[OWNER(p_)] -> mem[OWNER(p_)] = mem[OWNER(p_)] | SEEN
                :: else
                fi
            }
            from = LOAD(me_, FIRST(p_));
            to = LOAD(me_, END(p_));
            if
            :: (RANGE(from, to) & pages[b_]) && (LOAD(me_, OWNER(p_)) & SEEN) -> n_++
            :: else
            fi
#endif
        fi
    fi;
    d_step { owner = 0; from = 0; to = 0 }
}
#else
/* [snapshot] */
inline look_at(me_, p_, b_, n_) {
    d_step {
        if
        :: LOAD(me_, OWNER(p_)) & pages[b_] -> n_++
        :: else
        fi
    }
}
#endif

/* [left], [count], [scan]: the pins that entry b has to wait for. */
inline scan(me_, b_, n_) {
    look_at(me_, 0, b_, n_);
#if PINNERS > 1
    look_at(me_, 1, b_, n_);
#endif
}

#include "pinner.pml"
#include "breaker.pml"

/* ---- the start ---------------------------------------------------------------------------------- */

init {
    atomic {
#ifdef START_FENCED
        mem[GATE] = FENCED;
        fenced = 1;
        trusted = 1;
#endif
        run pinner(0);
#if PINNERS > 1
        run pinner(1);
#endif
        run breaker(0, PINNERS);
#if BREAKERS > 1
        run breaker(1, PINNERS + 1);
#endif
        run_cpus()
    }
}

#ifdef FAIR
/* I5, I6: a break that has closed gets its proof, and so reopens. */
ltl drains { [] (state[0] == ENTERING -> <> (state[0] == NONE)) }
#endif
