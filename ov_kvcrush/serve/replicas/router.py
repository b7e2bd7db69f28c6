"""The router that Ray Serve's proxies have: it asks :func:`rank` where a request is to go."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ov_kvcrush.serve.replicas.ranking import rank


class SessionRouter(RequestRouter):
    """Sends a session's requests to the replica that has its cache, for as long as that has room.

    The session is the header ``x-session-id``, which Ray's proxy reads: it sees no bodies.
    """

    def initialize_state(self, spill_at: int) -> None:
        """Called by Ray.

        Args:
            spill_at: requests with which a replica is full.
        """
        self._spill_at = spill_at

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, the best first; called by Ray until one of them has taken it."""
        if pending_request is None:
            return [candidate_replicas]
        # Else Ray asks again at once while all replicas are full, and does nothing else.
        pending_request.routing_context.should_backoff = True
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {
            name: load
            for name, replica in by_name.items()
            if (load := self.replica_queue_len_cache.get(replica.replica_id)) is not None
        }
        about = pending_request.metadata
        names = rank(
            about.session_id, about.internal_request_id, list(by_name), loads, self._spill_at
        )
        return [[by_name[name]] for name in names]
