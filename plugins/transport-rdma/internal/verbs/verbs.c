//go:build rdma

#include "verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <netinet/in.h>

_Static_assert(sizeof(struct mv_wr) == 40, "WR");
_Static_assert(sizeof(struct mv_wc) == 24, "Completion");
_Static_assert(sizeof(struct mv_addr) == 28, "address");

#define BATCH 64

int mv_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? errno : 0;
}

static void to_sockaddr(const struct mv_addr *a, struct sockaddr_storage *s)
{
	memset(s, 0, sizeof *s);
	if (a->family == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)s;
		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->ip, 4);
	} else {
		struct sockaddr_in6 *in = (struct sockaddr_in6 *)s;
		in->sin6_family = AF_INET6;
		in->sin6_port = htons(a->port);
		in->sin6_scope_id = a->scope;
		memcpy(&in->sin6_addr, a->ip, 16);
	}
}

static void from_sockaddr(const struct sockaddr *s, struct mv_addr *a)
{
	memset(a, 0, sizeof *a);
	if (s->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)s;
		a->family = 4;
		a->port = ntohs(in->sin_port);
		memcpy(a->ip, &in->sin_addr, 4);
	} else if (s->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)s;
		a->family = 6;
		a->port = ntohs(in->sin6_port);
		a->scope = in->sin6_scope_id;
		memcpy(a->ip, &in->sin6_addr, 16);
	}
}

int mv_bind(struct rdma_event_channel *ch, const struct mv_addr *a, struct rdma_cm_id **id)
{
	struct sockaddr_storage s;
	int only = 1;
	int err;

	to_sockaddr(a, &s);
	if (rdma_create_id(ch, id, NULL, RDMA_PS_TCP))
		return errno;
	if (a->family == 6 && a->scope == 0)
		only = 0; // [::] is every address of both kinds
	rdma_set_option(*id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &only, sizeof only);
	if (rdma_bind_addr(*id, (struct sockaddr *)&s)) {
		err = errno;
		rdma_destroy_id(*id);
		return err;
	}
	return 0;
}

void mv_local(struct rdma_cm_id *id, struct mv_addr *a) { from_sockaddr(rdma_get_local_addr(id), a); }

void mv_peer(struct rdma_cm_id *id, struct mv_addr *a) { from_sockaddr(rdma_get_peer_addr(id), a); }

int mv_next(struct rdma_event_channel *ch, struct mv_event *e)
{
	struct rdma_cm_event *ev;

	if (rdma_get_cm_event(ch, &ev))
		return errno;
	e->id = ev->id;
	e->listener = ev->listen_id;
	e->kind = ev->event;
	e->status = ev->status;
	e->private_len = 0;
	if (ev->event == RDMA_CM_EVENT_CONNECT_REQUEST || ev->event == RDMA_CM_EVENT_CONNECT_RESPONSE ||
	    ev->event == RDMA_CM_EVENT_ESTABLISHED || ev->event == RDMA_CM_EVENT_REJECTED) {
		e->initiator_depth = ev->param.conn.initiator_depth;
		e->responder_resources = ev->param.conn.responder_resources;
		if (ev->param.conn.private_data) {
			e->private_len = ev->param.conn.private_data_len;
			memcpy(e->private_data, ev->param.conn.private_data, e->private_len);
		}
	}
	rdma_ack_cm_event(ev);
	return 0;
}

int mv_accept(struct rdma_cm_id *id, const void *data, uint8_t len, uint8_t initiator_depth, uint8_t responder_resources)
{
	struct rdma_conn_param p = {
		.private_data = data,
		.private_data_len = len,
		.initiator_depth = initiator_depth,
		.responder_resources = responder_resources,
		.flow_control = 1,
		.rnr_retry_count = 7, // for ever; who waits too long is ended by its transport
	};

	return rdma_accept(id, &p) ? errno : 0;
}

int mv_min_rnr(struct rdma_cm_id *id, uint8_t timer)
{
	struct ibv_qp_attr a = {.min_rnr_timer = timer};

	return ibv_modify_qp(id->qp, &a, IBV_QP_MIN_RNR_TIMER);
}

int mv_link(struct rdma_cm_id *id, uint32_t *transport, uint32_t *link_layer, uint32_t *mtu)
{
	struct ibv_port_attr p;
	int err = ibv_query_port(id->verbs, id->port_num, &p);

	if (err)
		return err;
	*transport = id->verbs->device->transport_type;
	*link_layer = p.link_layer;
	*mtu = 128 << p.active_mtu;
	return 0;
}

int mv_gid_type(struct rdma_cm_id *id, uint32_t *type)
{
	struct ibv_qp_attr a = {.qp_state = IBV_QPS_RTR};
	struct ibv_gid_entry g;
	int mask, err;

	if (rdma_init_qp_attr(id, &a, &mask))
		return errno;
	err = ibv_query_gid_ex(id->verbs, a.ah_attr.port_num, a.ah_attr.grh.sgid_index, &g, 0);
	*type = g.gid_type;
	return err;
}

int mv_domain_open(struct mv_domain *d, struct ibv_context *ctx, void *base, uint64_t size, int access, uint32_t cqe, uint32_t srq)
{
	struct ibv_srq_init_attr s = {.attr = {.max_wr = srq, .max_sge = 1}};
	int err;

	d->base = base;
	if ((d->pd = ibv_alloc_pd(ctx)) && (d->mr = ibv_reg_mr(d->pd, base, size, IBV_ACCESS_LOCAL_WRITE | access)) &&
	    (d->channel = ibv_create_comp_channel(ctx)) && (d->cq = ibv_create_cq(ctx, cqe, NULL, d->channel, 0)) &&
	    (srq == 0 || (d->srq = ibv_create_srq(d->pd, &s))) &&
	    (err = mv_nonblock(d->channel->fd)) == 0 && (err = ibv_req_notify_cq(d->cq, 0)) == 0)
		return 0;
	err = errno ? errno : EIO;
	mv_domain_close(d);
	return err;
}

int mv_domain_close(struct mv_domain *d)
{
	int err = 0;

	if (d->srq)
		err |= ibv_destroy_srq(d->srq);
	if (d->cq)
		err |= ibv_destroy_cq(d->cq);
	if (d->channel)
		err |= ibv_destroy_comp_channel(d->channel);
	if (d->mr)
		err |= ibv_dereg_mr(d->mr);
	if (d->pd)
		err |= ibv_dealloc_pd(d->pd);
	memset(d, 0, sizeof *d);
	return err;
}

int mv_qp(struct rdma_cm_id *id, struct mv_domain *d, uint32_t sends, uint32_t *inline_bytes)
{
	struct ibv_qp_init_attr a = {
		.send_cq = d->cq, .recv_cq = d->cq, .srq = d->srq, .qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = sends, .max_send_sge = 1, .max_inline_data = *inline_bytes},
	};

	if (!d->srq) {
		a.cap.max_recv_wr = sends;
		a.cap.max_recv_sge = 1;
	}
	if (rdma_create_qp(id, d->pd, &a)) {
		a.cap.max_inline_data = 0;
		if (rdma_create_qp(id, d->pd, &a))
			return errno;
	}
	*inline_bytes = a.cap.max_inline_data;
	return 0;
}

int mv_post(struct mv_domain *d, struct rdma_cm_id *id, const struct mv_wr *w, uint32_t n, uint32_t *posted)
{
	static const enum ibv_wr_opcode ops[] = {IBV_WR_SEND, IBV_WR_SEND_WITH_INV, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_READ};
	struct ibv_send_wr wr[BATCH], *bad;
	struct ibv_sge sge[BATCH];
	int err;

	*posted = 0;
	while (n > 0) {
		uint32_t i, m = n < BATCH ? n : BATCH;

		for (i = 0; i < m; i++) {
			sge[i] = (struct ibv_sge){(uintptr_t)d->base + w[i].offset, w[i].length, d->mr->lkey};
			memset(&wr[i], 0, sizeof wr[i]);
			wr[i].wr_id = w[i].id;
			wr[i].next = i + 1 < m ? &wr[i + 1] : NULL;
			wr[i].sg_list = &sge[i];
			wr[i].num_sge = w[i].length > 0;
			wr[i].opcode = ops[w[i].op];
			wr[i].send_flags = (w[i].flags & 1 ? IBV_SEND_SIGNALED : 0) | (w[i].flags & 2 ? IBV_SEND_INLINE : 0);
			if (wr[i].opcode == IBV_WR_SEND_WITH_INV) {
				wr[i].invalidate_rkey = w[i].key;
			} else {
				wr[i].wr.rdma.remote_addr = w[i].remote;
				wr[i].wr.rdma.rkey = w[i].key;
			}
		}
		if ((err = ibv_post_send(id->qp, wr, &bad))) {
			*posted += bad - wr;
			return err;
		}
		*posted += m;
		w += m;
		n -= m;
	}
	return 0;
}

int mv_receive(struct mv_domain *d, const struct mv_wr *w, uint32_t n, uint32_t *posted)
{
	struct ibv_recv_wr wr[BATCH], *bad;
	struct ibv_sge sge[BATCH];
	int err;

	*posted = 0;
	while (n > 0) {
		uint32_t i, m = n < BATCH ? n : BATCH;

		for (i = 0; i < m; i++) {
			sge[i] = (struct ibv_sge){(uintptr_t)d->base + w[i].offset, w[i].length, d->mr->lkey};
			wr[i] = (struct ibv_recv_wr){
				.wr_id = w[i].id, .next = i + 1 < m ? &wr[i + 1] : NULL, .sg_list = &sge[i], .num_sge = 1,
			};
		}
		if ((err = ibv_post_srq_recv(d->srq, wr, &bad))) {
			*posted += bad - wr;
			return err;
		}
		*posted += m;
		w += m;
		n -= m;
	}
	return 0;
}

int mv_poll(struct mv_domain *d, struct mv_wc *out, uint32_t n)
{
	struct ibv_wc wc[BATCH];
	int i, got = ibv_poll_cq(d->cq, n < BATCH ? n : BATCH, wc);

	for (i = 0; i < got; i++)
		out[i] = (struct mv_wc){wc[i].wr_id, wc[i].status, wc[i].byte_len, wc[i].qp_num, 0};
	return got;
}

// mv_wake takes the events of the completion channel, and asks for the next one.
int mv_wake(struct mv_domain *d)
{
	struct ibv_cq *cq;
	void *context;
	unsigned n = 0;

	while (ibv_get_cq_event(d->channel, &cq, &context) == 0)
		n++;
	if (n > 0)
		ibv_ack_cq_events(d->cq, n);
	return ibv_req_notify_cq(d->cq, 0);
}

// What follows is a host's.

int mv_resolve(struct rdma_event_channel *ch, const struct mv_addr *a, struct rdma_cm_id **id)
{
	struct sockaddr_storage s;
	int err;

	to_sockaddr(a, &s);
	if (rdma_create_id(ch, id, NULL, RDMA_PS_TCP))
		return errno;
	if (rdma_resolve_addr(*id, NULL, (struct sockaddr *)&s, 5000)) {
		err = errno;
		rdma_destroy_id(*id);
		return err;
	}
	return 0;
}

int mv_connect(struct rdma_cm_id *id, const void *data, uint8_t len, uint8_t served)
{
	struct rdma_conn_param p = {
		.private_data = data, .private_data_len = len, .responder_resources = served, .retry_count = 7, .rnr_retry_count = 7,
	};

	return rdma_connect(id, &p) ? errno : 0;
}

int mv_receive_qp(struct mv_domain *d, struct rdma_cm_id *id, const struct mv_wr *w)
{
	struct ibv_sge sge = {(uintptr_t)d->base + w->offset, w->length, d->mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = w->id, .sg_list = &sge, .num_sge = 1}, *bad;

	return ibv_post_recv(id->qp, &wr, &bad);
}

int mv_window(struct mv_domain *d, struct ibv_mw **mw)
{
	*mw = ibv_alloc_mw(d->pd, IBV_MW_TYPE_2);
	return *mw ? 0 : errno ? errno : EIO;
}

// mv_bind_window has peers of the queue pair name w's memory by w->key, until one of them has it invalidated.
int mv_bind_window(struct mv_domain *d, struct rdma_cm_id *id, struct ibv_mw *mw, const struct mv_wr *w)
{
	struct ibv_send_wr *bad, wr = {
		.wr_id = w->id, .opcode = IBV_WR_BIND_MW, .send_flags = IBV_SEND_SIGNALED,
		.bind_mw = {.mw = mw, .rkey = w->key, .bind_info = {
			.mr = d->mr, .addr = (uintptr_t)d->base + w->offset, .length = w->length,
			.mw_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
		}},
	};

	return ibv_post_send(id->qp, &wr, &bad);
}

int mv_async(struct ibv_context *ctx, uint32_t *kind, uint32_t *qp)
{
	struct ibv_async_event e;

	if (ibv_get_async_event(ctx, &e))
		return errno;
	*kind = e.event_type;
	*qp = 0;
	switch (e.event_type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_COMM_EST:
	case IBV_EVENT_SQ_DRAINED:
	case IBV_EVENT_PATH_MIG:
	case IBV_EVENT_PATH_MIG_ERR:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		*qp = e.element.qp->qp_num;
		break;
	default:
		break;
	}
	ibv_ack_async_event(&e);
	return 0;
}
