"""Every counter and gauge of a node, declared once. `/metrics` and `status` read the same numbers.

One `Metrics` a node, with a registry of its own, so that many nodes live in one process.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"meshsat_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"meshsat_{name}", text, labels, registry=self.registry)

        self.wan_in = counter(
            "wan_received_bytes", "Bytes received over the uplink, TLS and HTTP headers included."
        )
        self.wan_out = counter("wan_sent_bytes", "Bytes sent over the uplink, TLS and HTTP headers included.")
        self.wan_bytes = counter(
            "wan_packet_bytes",
            "Bytes of IP packets over the uplink, by what they were for.",
            "purpose",
            "direction",
        )
        self.wan_gate = gauge("wan_gate", "What may pass: 2 all, 1 what clients read, 0 nothing.")
        self.wan_rate = gauge(
            "wan_measured_rate", "Bytes per second that the uplink brought when it was used."
        )
        self.wan_quota_left = gauge("wan_quota_left_bytes", "What quotas leave of a period.", "period")
        self.wan_requests = counter(
            "wan_requests", "Requests sent to upstream registries.", "kind", "outcome"
        )
        self.lan_in = counter("lan_received_bytes", "Bytes received from peers on the bulk plane.")
        self.lan_out = counter("lan_sent_bytes", "Bytes sent to peers on the bulk plane.")
        self.chunks_in = counter("chunks_received", "Chunks received from peers, by outcome.", "outcome")
        self.chunks_out = counter("chunks_sent", "Chunks sent to peers.")
        self.duplicate_bytes = counter(
            "duplicate_bytes", "Payload received from peers that was held already."
        )
        self.peers = gauge("peers", "Peers with a live session.")
        self.blobs = gauge("blobs", "Blobs held whole.")
        self.blob_bytes = gauge("blob_bytes", "Bytes of the blobs held whole.")
        self.images = gauge("images", "Images held whole.")
        self.transfers = gauge("transfers", "Blobs on their way.")
        self.uplink_up = gauge("uplink_up", "1 when the last request to an upstream got an answer.")
        self.refused = counter(
            "refused_connections", "Connections refused for want of a valid pass.", "plane"
        )
        self.disk_used = gauge("disk_used_bytes", "Bytes that the store takes, and has promised to take.")
        self.disk_budget = gauge("disk_budget_bytes", "Bytes that it may take; 0 is no cap.")
        self.disk_freed = counter("disk_freed_bytes", "Bytes that were let go, by reason.", "reason")
        self.evicted_images = counter("evicted_images", "Images evicted under the disk budget.")
        self.gc_rounds = counter("gc_rounds", "Rounds of collection, by outcome.", "outcome")
        self.scrubbed_bytes = counter("scrubbed_bytes", "Bytes of blobs read again.")
        self.rotten_blobs = counter("rotten_blobs", "Blobs whose bytes proved wrong, or were gone.")
        self.intake_refused = counter("intake_refused", "Times that there was no room for something new.")
        self.registry_requests = counter(
            "registry_requests", "Requests to the embedded registry.", "kind", "status"
        )
        self.registry_out = counter(
            "registry_sent_bytes", "Payload that the embedded registry sent to its clients."
        )
