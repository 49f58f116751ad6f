/* Breakers: break, wait, reopen, close. Part of handshake.pml. */


#ifdef CANCEL
#define PATIENT 0   /* waits for its proof */
#define IMPATIENT 1 /* may go away before */
#define TRIES 2     /* [try_close_ranges] */
#endif

/* [look], [settle_last], [settle], for one who has just entered. */
inline may_drain(id_) {
    if
    :: BLOCKED(id_) -> state[id_] = QUEUED; locked = 0; goto entered
    :: else
    fi
}

/* [take_out], [remove], [remove_quiet] */
inline take_out(id_) {
    state[id_] = NONE; pages[id_] = 0; remaining[id_] = 0; behind[id_] = 0;
#if BREAKERS > 1
    behind[OTHER(id_)] = 0;
#endif
#ifdef CLOSE
    closing[id_] = 0;
#endif
#ifdef CANCEL
    kind = 0
#endif
}

proctype breaker(byte id; byte me) {
    byte n, reached;
#ifdef WORDS
    byte owner, from, to;
#endif
#ifdef CANCEL
    byte kind;
#endif
#if BREAKS
    byte breaks;
#endif
#ifdef UNLOCKED_BARRIER
    bit ours; /* the barrier comes behind FENCED */
#endif

idle:
    atomic { /* [close_ranges], [start_break], [enter], [write_down]; [break_alone], where nobody is before it */
#if BREAKS
        if
        :: breaks < BREAKS && !locked -> breaks++
        :: breaks == BREAKS -> goto enough
        fi;
#else
        if
        :: !locked
        :: goto enough
        fi;
#endif
        if
#ifdef CLOSE
        :: pages[id] = PAGES; closing[id] = 1
        :: final -> goto idle /* refused */
        :: !final -> pages[id] = 1
        :: !final -> pages[id] = 2
#else
        :: pages[id] = 2
#ifndef GAP
        :: pages[id] = 1
#endif
#endif
#ifdef BRIDGE
        :: pages[id] = 3
#endif
        fi;
#ifdef CANCEL
        if
        :: kind = PATIENT
        :: kind = IMPATIENT
#if BREAKERS > 1
        :: !CLOSES(id) && (pages[OTHER(id)] & pages[id]) -> /* [try_close_ranges], [is_taken] */
            pages[id] = 0; goto idle
        :: !CLOSES(id) && !(pages[OTHER(id)] & pages[id]) -> kind = TRIES
#else
        :: !CLOSES(id) -> kind = TRIES
#endif
        fi;
#endif
        locked = 1;
#ifdef CLOSE
        if
        :: closing[id] && !final -> /* [close], [shut], [refuse] */
            final = 1;
#if BREAKERS > 1
            if
            :: state[OTHER(id)] == QUEUED || state[OTHER(id)] == DRAINING ->
                state[OTHER(id)] = REFUSED; pages[OTHER(id)] = 0; remaining[OTHER(id)] = 0;
                if
                :: bell[OTHER(id)] == LISTENING -> wakes[me] = wakes[me] | BIT(OTHER(id))
                :: else
                fi
            :: else
            fi
#endif
        :: else
        fi;
#endif
        state[id] = ENTERING;
#if BREAKERS > 1
        behind[id] = (state[OTHER(id)] != NONE);
#endif
        /* [close_gate]: [begin_break] says which barrier; [publish_gate] says FENCED together with what is
         * closed. */
        if
        :: fenced && trusted -> store(me, GATE, WORD); goto fence
        :: fenced && !trusted -> store(me, GATE, WORD)
        :: !fenced -> store(me, GATE, WORD) /* goes without a countdown */
#ifdef CLOSE_NO_BARRIER
        :: !fenced && closing[id] -> store(me, GATE, WORD); goto fence
#endif
        :: !fenced ->
            fenced = 1;
#ifdef FENCED_AT_REOPEN
            store(me, GATE, CLOSED);
#else
            store(me, GATE, WORD);
#endif
#ifdef SWITCH_NO_BARRIER
            trusted = 1;
            goto fence
#endif
        fi;
#ifdef NO_BARRIER
        trusted = fenced;
        goto looks;
#endif
#ifdef TRUST_EARLY
        trusted = fenced;
#endif
#ifdef UNLOCKED_BARRIER
        ours = fenced;
        drain_all(me);
        locked = 0
#endif
    }

    /* [execute], [everywhere]: a barrier of our own, then one on each CPU, in any order. Other breakers
     * have nothing in their buffers, for they do not have the lock. */
    do
    :: atomic { !(reached & BIT(0)) ->
            drain_all(me);
            drain_all(0);
            reached = reached | BIT(0);
            if
            :: reached == BIT(PINNERS) - 1 -> break
            :: else
            fi
        }
#if PINNERS > 1
    :: atomic { !(reached & BIT(1)) ->
            drain_all(me);
            drain_all(1);
            reached = reached | BIT(1);
            if
            :: reached == BIT(PINNERS) - 1 -> break
            :: else
            fi
        }
#endif
#ifdef MAY_FAIL
    :: atomic { /* it was not to be had */
            reached = 0;
            trusted = 0;
            drain_all(me);
            state[id] = DRAINING;
            remaining[id] = NEVER; /* [look] */
            if
#ifdef TRY_WITHOUT_BARRIER
            :: kind == TRIES -> goto second
#else
            :: kind == TRIES -> goto leaves
#endif
            :: else -> kind = IMPATIENT; locked = 0; goto entered
            fi
        }
#endif
    od;
    atomic {
#ifdef UNLOCKED_BARRIER
        !locked -> locked = 1;
        reached = 0;
        trusted = trusted || ours;
        ours = 0;
#else
        reached = 0;
        trusted = fenced; /* [learn] */
#endif
        may_drain(id);
        goto looks
    }

fence: /* [execute], [full] */
    atomic { drain_all(me); may_drain(id) }

looks:
    scan(me, id, n); /* [drain] */
#ifdef CANCEL
    if
    :: atomic { kind == TRIES && n -> n = 0 }
second:
        scan(me, id, n) /* [try_again], [list]: as good as the first, behind the same barrier */
    :: else
    fi;
#endif
#ifdef WAITER_LATE
    if
    :: n ->
        atomic { drain_all(me); locked = 0 }
        atomic { !locked -> conclude(me, id, n); goto poll }
    :: else
    fi;
#endif
#ifdef WAITER_WORD
    if
    :: n ->
        atomic { waiters = waiters | pages[id]; n = 0 }
#ifdef SECOND_BARRIER
        atomic { drain_all(0) }
#if PINNERS > 1
        atomic { drain_all(1) }
#endif
#endif
        scan(me, id, n)
    :: else
    fi;
#endif
    atomic {
        conclude(me, id, n); /* or [push_drained] */
        drain_all(me);
#ifdef CANCEL
        if
        :: kind == TRIES && state[id] == DRAINING -> goto leaves
        :: else
        fi;
#endif
        locked = 0
    }
entered:
#ifdef CLOSE
    if
    :: wakes[me] -> wake_them(me)
    :: else
    fi;
#endif

poll: /* [poll_break] */
    /* [spin]: it may look before it sleeps, as often as it likes, with or without the lock; what it has not
     * found yet changes nothing. The last look, before it sleeps, is the one that listens. */
    if
    :: atomic { state[id] == DRAINED -> goto proof }
#ifdef LISTEN_AFTER_LOOK
    :: atomic { !locked ->
            if
            :: state[id] == DRAINED -> goto proof
            :: else
            fi
        }
        bell[id] = LISTENING
#else
    :: atomic { !locked ->
            if
            :: state[id] == DRAINED -> goto proof /* [is_drained] */
#ifdef CLOSE
            :: state[id] == REFUSED -> take_out(id); goto idle
#endif
            :: else -> bell[id] = LISTENING /* [hang] */
            fi
        }
#endif
    fi;
    if
    :: atomic { bell[id] == RUNG -> bell[id] = 0; goto poll }
#ifdef CANCEL
    :: atomic { kind == IMPATIENT -> /* drops its listener: nobody wakes it any more */
            bell[id] = 0;
            wakes[0] = wakes[0] & ~BIT(id);
            wakes[1] = wakes[1] & ~BIT(id);
#if CPUS > 2
            wakes[2] = wakes[2] & ~BIT(id);
#endif
#if CPUS > 3
            wakes[3] = wakes[3] & ~BIT(id);
#endif
            if
            :: goto poll /* timed out: waits again, some time */
            :: true      /* goes away */
            fi
        }
#endif
    fi;

proof: /* The blocks are freed, unless it goes away before. Then [reopen]. */
    atomic { !locked ->
        assert(state[id] != DRAINED || !(HELD & pages[id])); /* I2: freed under a pin */
#ifdef CLOSE
        over = over || (closing[id] && state[id] == DRAINED);
#endif
#ifdef WAITER_WORD
        waiters = waiters & ~pages[id];
#endif
        locked = 1;
        take_out(id);
#if BREAKERS > 1
        if
        :: state[OTHER(id)] == QUEUED
        :: else -> goto publish
        fi
#else
        goto publish
#endif
    }
#if BREAKERS > 1
    scan(me, OTHER(id), n); /* [settle], [drain]: who waited for us */
    atomic { conclude(me, OTHER(id), n); goto publish };
#endif
publish:
    atomic {
        /* [publish_gate]; published and unlocked in one step. */
        drain_all(me);
#ifdef FLAG_NOT_COUNT
        PUBLISH((fenced -> FENCED : 0));
#else
        PUBLISH(WORD);
#endif
        locked = 0;
        if
        :: wakes[me]
        :: else -> goto idle
        fi
    }
    wake_them(me);
    goto idle;
#ifdef CANCEL
leaves: /* [try_again]: as if it had not been */
    atomic {
        drain_all(me);
        take_out(id);
        PUBLISH(WORD); /* [publish_gate] */
        locked = 0;
        goto idle
    }
#endif
enough:
}
