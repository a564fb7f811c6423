"""Staleness is arithmetic: versions, lags, slots, and why no group ever exceeds the bound.

**Version.** A version is the number of published optimizer steps: one batch is trained on, then its
weights are published in every sampler (minibatches of one batch publish once). The step that
consumes version V trains the policy that was published as V and makes V + 1.

**Lag.** The lag of a sub-sequence is the consuming version minus the oldest version among its
tokens, because one stale token makes its whole ratio stale. The lag of a trajectory is that of its
worst turn, the lag of a group that of its worst trajectory.

**Slots.** Let B be the groups per batch and L = max_lag. A group holds a slot from admission until
the step that used it has been *published* (or it is discarded). There are (L + 1)·B slots.

**Deadline.** A group admitted while v was published has no token older than v, so it may be
consumed at any version c ≤ v + L. v + L is its deadline.

**Claim.** Call c the next consuming version: c = v + o, with v the published version and o the
batches taken but not yet published. Say the buffer is *safe* at c when, among the groups that are
admitted and not yet taken,

    #{groups with deadline ≤ c + j} ≤ (j + 1)·B      for every j ≥ 0.                        (1)

The take rule is: a batch of exactly B finished groups may be taken at c only if what stays behind
is safe at c + 1. Then (a) the buffer is always safe, (b) no group is ever consumed after its
deadline, and (c) if every admitted group finishes sooner or later, takes never stop.

**Proof.**
1. *Admission keeps (1).* The new group's deadline v + L is the latest of all, so it only counts
   where c + j ≥ v + L, that is j ≥ L − o. The o batches that are out hold o·B slots, so at most
   (L + 1 − o)·B groups are untaken, the new one included, and (L + 1 − o)·B ≤ (j + 1)·B.
2. *Discarding* removes a group, which never breaks (1). *Publishing* moves v up and o down by one,
   and c stays. *Taking* keeps (1) because the take rule says so. This is (a).
3. At j = −1 the take rule's "safe at c + 1" reads: nothing with deadline ≤ c stays behind. This
   is (b). A straggler at its deadline is therefore waited for, never dropped.
4. Let at least B groups be untaken and all of them finished. Taking the B with the earliest
   deadlines leaves, by (1) with j + 1 in the place of j, at most (j + 2)·B − B = (j + 1)·B groups
   with deadline ≤ (c + 1) + j, so this take is allowed. Deadlines rise with the order of
   admission, so these are the B oldest, which lie inside any window of at least B groups. If fewer
   than B are untaken and no batch is out, fewer than B ≤ (L + 1)·B slots are in use, so groups are
   admitted until B are. This is (c). ∎

**Replays.** A step may also use groups that published steps have used already, if none is past its
deadline. They hold no slot and count in no inequality, so nothing above changes.

**Shards.** Shard s of S has B_s groups per batch, with Σ B_s = B, and the same L. Its batches are
published with those of all other shards, so v and o are the same everywhere, and the claim holds
for each shard with B_s. The batch at c of the whole is the union of the shards' batches at c: it
has B groups, none of them past its deadline.

A publication may overlap the next step, because nothing above bounds o: a batch may be taken and
trained on while the version before it is on its way to the samplers. There are never more than two
batches out (one in training, one being published), and the weights of step n + 1 are not made
before version n has been published (`learner.weights_gate`), so no token is ever newer than the
version that consumes it. With L = 0 nothing overlaps: all slots are out until they are published.

Among the finished groups inside the window the oldest are taken first. If any choice of B finished
groups is allowed, this one is: it removes the most groups with deadline ≤ d for every d at once.

With L = 0 there are B slots: B groups are admitted at v, all are taken at c = v, and none is
admitted before v + 1 is published. That is the synchronous system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from wfr.trajectory import Trajectory


def slots(max_lag: int, groups_per_batch: int) -> int:
    """Groups that may be alive at once."""
    return (max_lag + 1) * groups_per_batch


def deadline(admitted_version: int, max_lag: int) -> int:
    """The last version that may consume a group."""
    return admitted_version + max_lag


def lag(consuming_version: int, oldest_version: int) -> int:
    """Steps between sampling and training; raises ValueError for tokens from the future."""
    if oldest_version > consuming_version:
        raise ValueError(f"version {consuming_version} consumes tokens of version {oldest_version}")
    return consuming_version - oldest_version


def turn_lags(trajectory: Trajectory, consuming_version: int) -> Iterator[int]:
    """The lag of each turn, in order."""
    for oldest in trajectory.turn_oldest_version():
        yield lag(consuming_version, oldest)


def is_safe(deadlines: Mapping[int, int], version: int, groups_per_batch: int) -> bool:
    """True when batches from `version` on can meet every deadline: inequality (1).

    Args:
        deadlines: how many of the groups that are not yet taken have which deadline.
        version: the next consuming version c.
        groups_per_batch: B.
    """
    due = 0
    for limit in sorted(deadlines):
        due += deadlines[limit]
        if due > max(0, limit - version + 1) * groups_per_batch:
            return False
    return True
