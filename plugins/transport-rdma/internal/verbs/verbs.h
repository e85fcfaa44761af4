//go:build rdma

#ifndef MOORING_VERBS_H
#define MOORING_VERBS_H

#include <stdint.h>
#include <rdma/rdma_cma.h>

// Laid out like the Go types of the same purpose: WR, Completion, address.
struct mv_wr {
	uint64_t id, offset, remote;
	uint32_t length, key, op, flags;
};

struct mv_wc {
	uint64_t id;
	uint32_t status, bytes, qp, event;
};

struct mv_addr {
	uint8_t ip[16];
	uint32_t family; // 4 or 6
	uint32_t scope;
	uint32_t port;
};

struct mv_event {
	struct rdma_cm_id *id, *listener;
	uint32_t kind, status, private_len;
	uint32_t initiator_depth, responder_resources;
	uint8_t private_data[256];
};

struct mv_domain {
	struct ibv_pd *pd;
	struct ibv_mr *mr;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_srq *srq;
	uint8_t *base;
};

// Functions return 0 or an errno.
int mv_nonblock(int fd);
int mv_bind(struct rdma_event_channel *ch, const struct mv_addr *a, struct rdma_cm_id **id);
void mv_local(struct rdma_cm_id *id, struct mv_addr *a);
void mv_peer(struct rdma_cm_id *id, struct mv_addr *a);
int mv_next(struct rdma_event_channel *ch, struct mv_event *e);
int mv_accept(struct rdma_cm_id *id, const void *data, uint8_t len, uint8_t initiator_depth, uint8_t responder_resources);
int mv_min_rnr(struct rdma_cm_id *id, uint8_t timer);
int mv_link(struct rdma_cm_id *id, uint32_t *transport, uint32_t *link_layer, uint32_t *mtu);
int mv_gid_type(struct rdma_cm_id *id, uint32_t *type);
int mv_domain_open(struct mv_domain *d, struct ibv_context *ctx, void *base, uint64_t size, int access, uint32_t cqe, uint32_t srq);
int mv_domain_close(struct mv_domain *d);
int mv_qp(struct rdma_cm_id *id, struct mv_domain *d, uint32_t sends, uint32_t *inline_bytes);
int mv_post(struct mv_domain *d, struct rdma_cm_id *id, const struct mv_wr *w, uint32_t n, uint32_t *posted);
int mv_receive(struct mv_domain *d, const struct mv_wr *w, uint32_t n, uint32_t *posted);
int mv_poll(struct mv_domain *d, struct mv_wc *out, uint32_t n);
int mv_wake(struct mv_domain *d);
int mv_resolve(struct rdma_event_channel *ch, const struct mv_addr *a, struct rdma_cm_id **id);
int mv_connect(struct rdma_cm_id *id, const void *data, uint8_t len, uint8_t served);
int mv_window(struct mv_domain *d, struct ibv_mw **mw);
int mv_bind_window(struct mv_domain *d, struct rdma_cm_id *id, struct ibv_mw *mw, const struct mv_wr *w);
int mv_receive_qp(struct mv_domain *d, struct rdma_cm_id *id, const struct mv_wr *w);
int mv_async(struct ibv_context *ctx, uint32_t *kind, uint32_t *qp);

#endif
