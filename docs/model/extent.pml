/*
 * One block of one extent: rules 1 to 8 of docs/safety.md, for spin (run `make model`).
 *
 * Two nodes, of which one owns the extent at a time; a replica on each of two stores; one host
 * with a path to each node, that writes the values 1 to WRITES and reads beside that. Anything
 * may be slow for any time: between two steps of one process the others take as many as they like.
 * Beyond that, as often as the budgets below say: the owner's Meta session ends while it goes on
 * (a pause, or a partition), a store goes down and comes back, a link breaks with commands
 * under way, the host loses its connection and sends again by the same path or by the other one.
 *
 * What is checked: a read never returns a value that was overwritten before the read began. That is
 * linearizability of one register as far as one host can see it.
 *
 * Each rule can be taken out: -DNO2, -DNO3, -DNO4, -DNO5, -DNO6, -DNO7, -DNO8. `make model` checks that the
 * model holds as it is, and that it fails without any one of them.
 *
 * What is left out: what is below a store (it keeps what it has acknowledged), Meta itself (it
 * is one atomic variable), and time: a session that has ended was given up by its owner before (rule
 * 4, whose margin makes it so).
 */

#ifndef WRITES
#define WRITES 2
#endif
#ifndef READS
#define READS 2
#endif
#ifndef BREAKS
#define BREAKS 1   /* links that break */
#endif
#ifndef DOWNS
#define DOWNS 1    /* stores that go down */
#endif
#ifndef LOSSES
#define LOSSES 1   /* connections that the host loses */
#endif

#ifdef NO2
#define rule2 0
#else
#define rule2 1
#endif
#ifdef NO3
#define rule3 0
#else
#define rule3 1
#endif
#ifdef NO4
#define rule4 0
#else
#define rule4 1
#endif
#ifdef NO5
#define rule5 0
#else
#define rule5 1
#endif
#ifdef NO6
#define rule6 0
#else
#define rule6 1
#endif
#ifdef NO7
#define rule7 0
#else
#define rule7 1
#endif
#ifdef NO8
#define rule8 0
#else
#define rule8 1
#endif

#define BIT(i) (1 << (i))
#define IN(s, i) (((s) >> (i)) & 1)
#define AT(r, n) ((r) * 2 + (n))      /* the link of store r and node n */

/* Meta. */
byte metaOwner, metaGen = 1, metaSet = 3, metaEpoch = 1;
bool session[2] = { true, true };     /* of each node */

/* Stores. */
byte val[2], sealed[2] = { 1, 1 };
bool dirty[2], up[2] = { true, true };
bool link[4] = { true, false, true, false };
chan cmd[4] = [2] of { byte, byte };  /* value, generation: writes under way to a store */
bool busy[4];                         /* a write was admitted and is not yet in val */
bool done[4];                         /* it is */
bool refused[4];                      /* its generation was too low */

/* Host and paths. */
chan entry[2] = [2] of { byte, byte };/* value, epoch: parked where they entered */
byte ackValue, ackEpoch;
byte readState, readValue;            /* 0: none, 1: asked for, 2: answered */

byte breaks, downs, losses;

/* What the host knows, as sets of values. */
byte finished = 1, dead;              /* value 0 is what was there before */
byte before[WRITES + 1];              /* finished when the write of the value began */

/* A store, at the end of its link with one node. */
proctype Store(byte r; byte n) {
	byte v, g;
end:
	do
	:: atomic { cmd[AT(r, n)]?v, g ->
		if
		:: !rule2 || g == sealed[r] -> busy[AT(r, n)] = true
		:: else -> refused[AT(r, n)] = true; printf("store %d refuses %d, generation %d of node %d\n", r, v, g, n); v = 0
		fi;
		g = 0 }
	:: d_step { busy[AT(r, n)] -> val[r] = v; dirty[r] = true; busy[AT(r, n)] = false; done[AT(r, n)] = true;
		printf("store %d applies %d from node %d\n", r, v, n); v = 0 }
	od
}

/* The seal waits for what was admitted under a lower generation (rule 2), and a new link for what
   came by the one before (rule 9). */
#define quiet(r, n) (len(cmd[AT(r, n)]) == 0 && !busy[AT(r, n)])
#define sealable(r, n) (up[r] && quiet(r, n) && (!rule2 || !busy[AT(r, 1 - (n))]))

inline seal(r, n) {
	sealed[r] = gen;
	link[AT(r, n)] = true;
	done[AT(r, n)] = false;
	refused[AT(r, n)] = false
}

/* What an owner copies. */
#define NOTHING 0
#define RECONCILE 1
#define JOIN 2
#define serving (owner && (session[me] || !rule4)) /* rule 4 */
#define has(r) (done[AT(r, me)] && link[AT(r, me)])
#define answered(r) (!IN(need, r) || done[AT(r, me)] || refused[AT(r, me)] || !link[AT(r, me)])

/* Commits the set without r, unless nothing would be left or the extent is another's by now. */
inline lose(r) {
	d_step {
		if
		:: metaOwner == me && metaGen == gen && session[me] && (set & ~BIT(r)) != 0 ->
			set = set & ~BIT(r);
			printf("node %d commits the set without store %d\n", me, r);
			metaSet = set;
			metaGen++;
			gen = metaGen;
			unreconciled = false;
			copy = NOTHING;
			join = 0;
			if
			:: link[AT(1 - r, me)] -> sealed[1 - r] = gen
			:: else -> skip
			fi
		:: else -> owner = false
		fi
	}
}

proctype Node(byte me) {
	bool owner = (me == 0), unreconciled = false;
	byte gen = 1, set = 3, seen = 1;
	byte join = 0;                    /* of the store that is not in set: 1 it gets writes, 2 it was copied to */
	byte copy = NOTHING, copyValue, copyTo;
	byte v, e, r, need;
end:
	do
	/* Rules 1 and 3: taking over. */
	:: atomic { !owner && me != metaOwner && !session[metaOwner] ->
		metaOwner = me;
		metaGen++;
		gen = metaGen;
		set = metaSet;
		seen = metaEpoch;
		owner = true;
		printf("node %d takes over with generation %d\n", me, gen);
		r = 0 }
		do
		:: r < 2 && owner && IN(set, r) ->
			if
			:: d_step { sealable(r, me) -> seal(r, me) }
			:: !up[r] -> lose(r)
			:: d_step { up[r] && breaks < BREAKS -> breaks++ } lose(r) /* cut off from here, not from the former owner */
			fi;
			r++
		:: r < 2 && owner && !IN(set, r) -> r++
		:: atomic { r == 2 || !owner ->
			unreconciled = rule3 && set == 3 && (dirty[0] || dirty[1]);
			r = 0;
			break }
		od

	/* Writes. */
	:: atomic { serving && (copy == NOTHING || !rule7) && entry[0]?[v, e] -> entry[0]?v, e } goto write
	:: atomic { serving && (copy == NOTHING || !rule7) && entry[1]?[v, e] -> entry[1]?v, e }
write:
		if
		:: rule6 && e < seen -> printf("node %d refuses %d of epoch %d\n", me, v, e); goto next   /* answered with a status that makes hosts try again */
		:: else -> d_step {
			seen = (e > seen -> e : seen);
			printf("node %d sends %d of epoch %d to its stores\n", me, v, e);
			need = set | (join > 0 && rule8 -> 3 : 0);
			done[AT(0, me)] = false;
			done[AT(1, me)] = false;
			if
			:: IN(need, 0) && link[AT(0, me)] -> cmd[AT(0, me)]!v, gen
			:: else -> skip
			fi;
			if
			:: IN(need, 1) && link[AT(1, me)] -> cmd[AT(1, me)]!v, gen
			:: else -> skip
			fi }
		fi;
		atomic { answered(0) && answered(1) ->
			r = 0;
			do
			:: r < 2 && owner && IN(need, r) && refused[AT(r, me)] -> owner = false
			:: r < 2 && owner && IN(need, r) && !refused[AT(r, me)] && !has(r) ->
				if
				:: !IN(set, r) -> join = 0; copy = NOTHING
				:: IN(set, r) && rule5 -> lose(r)
				:: IN(set, r) && !rule5 -> skip
				fi;
				r++
			:: r < 2 && owner && (!IN(need, r) || has(r) && !refused[AT(r, me)]) -> r++
			:: r == 2 || !owner -> break
			od;
			if
			:: serving -> ackValue = v; ackEpoch = e; printf("node %d acknowledges %d\n", me, v)
			:: else -> skip
			fi;
			v = 0; e = 0; r = 0; need = 0; done[AT(0, me)] = false; done[AT(1, me)] = false }

	/* Reads: any member will do. */
	:: d_step { serving && readState == 1 && !unreconciled && IN(set, 0) && link[AT(0, me)] && (!rule2 || sealed[0] == gen) ->
		readValue = val[0]; readState = 2; printf("node %d answers a read from store 0: %d\n", me, readValue) }
	:: d_step { serving && readState == 1 && !unreconciled && IN(set, 1) && link[AT(1, me)] && (!rule2 || sealed[1] == gen) ->
		readValue = val[1]; readState = 2; printf("node %d answers a read from store 1: %d\n", me, readValue) }

	/* A sole member whose link broke is sealed again. */
	:: d_step { serving && set == 1 && !link[AT(0, me)] && copy == NOTHING && sealable(0, me) -> seal(0, me) }
	:: d_step { serving && set == 2 && !link[AT(1, me)] && copy == NOTHING && sealable(1, me) -> seal(1, me) }

	/* Rule 3: making a dirty region equal on all members. */
	:: d_step { serving && unreconciled && copy == NOTHING -> copy = RECONCILE; copyTo = 1; copyValue = val[0];
		printf("node %d read %d to make store 1 equal\n", me, copyValue) }
	:: d_step { serving && unreconciled && copy == NOTHING -> copy = RECONCILE; copyTo = 0; copyValue = val[1];
		printf("node %d read %d to make store 0 equal\n", me, copyValue) }

	/* Rule 8: a store that is not in the set joins: it is sealed and gets every write, then it is copied to. */
	:: d_step { serving && set != 3 && join == 0 && copy == NOTHING && sealable(2 - set, me) ->
		r = 2 - set;
		seal(r, me);
		join = 1;
		printf("node %d has store %d join\n", me, r);
		r = 0 }
	:: d_step { serving && join == 1 && copy == NOTHING && link[AT(set - 1, me)] -> copy = JOIN; copyTo = 2 - set; copyValue = val[set - 1];
		printf("node %d read %d for the joiner\n", me, copyValue) }
	:: d_step { serving && join == 2 && metaOwner == me && metaGen == gen && link[0 + me] && link[2 + me] ->
		set = 3;
		printf("node %d commits the set with both stores\n", me);
		metaSet = 3;
		metaGen++;
		gen = metaGen;
		sealed[0] = gen;
		sealed[1] = gen;
		join = 0 }

	/* Rule 7: a copy holds the block from its read to its write, with no write in between. */
	:: d_step { serving && copy != NOTHING && link[AT(copyTo, me)] && len(cmd[AT(copyTo, me)]) < 2 ->
		done[AT(copyTo, me)] = false;
		cmd[AT(copyTo, me)]!copyValue, gen }
		atomic { (done[AT(copyTo, me)] || refused[AT(copyTo, me)] || !link[AT(copyTo, me)]) ->
			if
			:: copy == NOTHING -> skip /* given up, with the join or the member */
			:: copy != NOTHING && refused[AT(copyTo, me)] -> owner = false
			:: copy != NOTHING && has(copyTo) && !refused[AT(copyTo, me)] ->
				if
				:: copy == RECONCILE -> unreconciled = false
				:: copy == JOIN && join == 1 -> join = 2
				:: else -> skip
				fi
			:: copy != NOTHING && !has(copyTo) && !refused[AT(copyTo, me)] ->
				if
				:: IN(set, copyTo) -> lose(copyTo)
				:: else -> join = 0
				fi
			fi;
			copy = NOTHING; copyValue = 0; done[AT(copyTo, me)] = false; copyTo = 0 }
	/* Its link broke before the copy began. */
	:: serving && copy != NOTHING && !link[AT(copyTo, me)] ->
		if
		:: IN(set, copyTo) -> lose(copyTo)
		:: else -> join = 0; copy = NOTHING
		fi
	/* A member whose link broke is lost also when nothing is written; the joiner begins anew. */
	:: serving && rule5 && set == 3 && !link[0 + me] -> lose(0)
	:: serving && rule5 && set == 3 && !link[2 + me] -> lose(1)
	:: d_step { serving && join > 0 && copy == NOTHING && !link[AT(2 - set, me)] -> join = 0 }

	/* Regions are clean when every member has what was written. */
	:: d_step { serving && set == 3 && !unreconciled && copy == NOTHING && link[0 + me] && link[2 + me] && sealed[0] == gen && sealed[1] == gen && (dirty[0] || dirty[1]) ->
		dirty[0] = false; dirty[1] = false }
next:
		skip
	od
}

/* A store that goes down loses its links and what was under way, but nothing that it acknowledged. */
inline fall(r) {
	up[r] = false;
	link[AT(r, 0)] = false; link[AT(r, 1)] = false;
	busy[AT(r, 0)] = false; busy[AT(r, 1)] = false;
	do
	:: cmd[AT(r, 0)]?_, _
	:: cmd[AT(r, 1)]?_, _
	:: empty(cmd[AT(r, 0)]) && empty(cmd[AT(r, 1)]) -> break
	od
}

/* What goes wrong. */
proctype World() {
end:
	do
	:: d_step { session[0] -> session[0] = false; printf("the session of node 0 ends\n") }
	:: d_step { breaks < BREAKS && link[0] -> breaks++; link[0] = false; printf("the link of store 0 and node 0 breaks\n") }
	:: d_step { breaks < BREAKS && link[2] -> breaks++; link[2] = false; printf("the link of store 1 and node 0 breaks\n") }
	:: d_step { breaks < BREAKS && link[1] -> breaks++; link[1] = false; printf("the link of store 0 and node 1 breaks\n") }
	:: d_step { breaks < BREAKS && link[3] -> breaks++; link[3] = false; printf("the link of store 1 and node 1 breaks\n") }
	:: atomic { downs < DOWNS && up[0] -> downs++; fall(0); printf("store 0 goes down\n") }
	:: atomic { downs < DOWNS && up[1] -> downs++; fall(1); printf("store 1 goes down\n") }
	:: d_step { !up[0] -> up[0] = true; printf("store 0 is back\n") }
	:: d_step { !up[1] -> up[1] = true; printf("store 1 is back\n") }
	od
}

proctype Host() {
	byte v = 1, path = 0, epoch = 1;
	do
	:: atomic { v <= WRITES -> before[v] = finished; entry[path]!v, epoch; printf("the host writes %d by path %d, epoch %d\n", v, path, epoch) }
		do
		:: d_step { ackValue == v && ackEpoch == epoch ->
			finished = finished | BIT(v);
			dead = dead | before[v];
			ackValue = 0; ackEpoch = 0;
			printf("the write of %d is finished\n", v);
			v++ }
			break
		/* The connection is lost with the command under way: rule 6 raises the epoch with the new one. */
		:: atomic { losses < LOSSES && len(entry[path]) < 2 -> losses++; metaEpoch++; epoch = metaEpoch; entry[path]!v, epoch;
			printf("the host lost its connection and writes %d again by path %d, epoch %d\n", v, path, epoch) }
		:: atomic { losses < LOSSES && len(entry[1 - path]) < 2 -> losses++; path = 1 - path; metaEpoch++; epoch = metaEpoch; entry[path]!v, epoch;
			printf("the host lost its connection and writes %d again by path %d, epoch %d\n", v, path, epoch) }
		od
	:: v > WRITES -> break
	od
}

/* The same host's reads, beside its writes. */
proctype Reader() {
	byte reads, wasDead;
	do
	:: d_step { reads < READS && readState == 0 -> wasDead = dead; readState = 1; printf("the host begins to read\n") }
	:: d_step { readState == 2 ->
		printf("the host reads %d\n", readValue);
		assert(!IN(wasDead, readValue));
		if
		:: readValue > 0 -> dead = dead | before[readValue]
		:: else -> skip
		fi;
		readState = 0; readValue = 0; wasDead = 0;
		reads++ }
	:: reads == READS -> break
	od
}

init {
	atomic {
		run Store(0, 0); run Store(0, 1); run Store(1, 0); run Store(1, 1);
		run Node(0); run Node(1);
		run World();
		run Host(); run Reader()
	}
}
