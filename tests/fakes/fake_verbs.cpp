// A libibverbs of software for one process: devices fake_0, fake_1, … whose queue pairs write into each other's memory. It exports the functions
// that discovery uses; posting and polling go through ibv_context::ops, as on real devices.
#include "fake_verbs.hpp"

#include <infiniband/verbs.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace {

FakeVerbs state;
std::mutex mutex;

struct FakeDevice : ibv_device {
  int number = 0;
};
struct FakeMemory : ibv_mr {};
struct FakeCq : ibv_cq {
  std::deque<ibv_wc> done;
};
struct FakeQp : ibv_qp {
  FakeCq* cq = nullptr;
  int number = 0;
  uint32_t peer = 0;
};
std::map<uint32_t, FakeQp*> qps;
std::map<uint32_t, FakeMemory*> memories;
uint32_t next_qp = 100, next_key = 1000;

int number_of(ibv_context* context) { return static_cast<FakeDevice*>(context->device)->number; }

bool admitted(const FakeMemory& memory, uint64_t at, size_t size) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.addr);
  return at >= begin && size <= memory.length && at - begin <= memory.length - size;
}

int post_send(ibv_qp* qp, ibv_send_wr* wr, ibv_send_wr** bad) {
  const std::lock_guard lock(mutex);
  auto& mine = *static_cast<FakeQp*>(qp);
  *bad = wr;
  if (mine.state != IBV_QPS_RTS || wr->opcode != IBV_WR_RDMA_WRITE || wr->num_sge != 1) return EINVAL;
  if (state.silent) return 0;
  ibv_wc done{};
  done.wr_id = wr->wr_id;
  done.qp_num = mine.qp_num;
  const auto peer = qps.find(mine.peer);
  const auto memory = memories.find(wr->wr.rdma.rkey);
  if (peer == qps.end() || peer->second->state < IBV_QPS_RTR || peer->second->number == state.black_hole) {
    done.status = IBV_WC_RETRY_EXC_ERR;
    done.vendor_err = 129;
  } else if (memory == memories.end() || !admitted(*memory->second, wr->wr.rdma.remote_addr, wr->sg_list->length)) {
    done.status = IBV_WC_REM_ACCESS_ERR;
  } else {
    const auto* from = reinterpret_cast<const volatile uint8_t*>(wr->sg_list->addr);
    auto* to = reinterpret_cast<volatile uint8_t*>(wr->wr.rdma.remote_addr);
    for (uint32_t i = 0; i < wr->sg_list->length; ++i) to[i] = from[i];
  }
  mine.cq->done.push_back(done);
  return 0;
}

int poll_cq(ibv_cq* cq, int count, ibv_wc* wc) {
  const std::lock_guard lock(mutex);
  auto& queue = static_cast<FakeCq*>(cq)->done;
  int got = 0;
  for (; got < count && !queue.empty(); ++got) {
    wc[got] = queue.front();
    queue.pop_front();
  }
  return got;
}

void put_gid(ibv_gid& gid, int device, int index) {
  // 0 fe80 v1, 1 fe80 v2, 2 IPv4 v1, 3 IPv4 v2: what a ConnectX with one address has.
  std::memset(&gid, 0, sizeof gid);
  gid.raw[15] = static_cast<uint8_t>(device + 1);
  if (index < 2) {
    gid.raw[0] = 0xfe, gid.raw[1] = 0x80;
  } else {
    gid.raw[10] = gid.raw[11] = 0xff;
    gid.raw[12] = 10, gid.raw[14] = static_cast<uint8_t>(device);
  }
}
int gids() { return state.ethernet ? 4 : 1; }

}  // namespace

extern "C" {

FakeVerbs* fake_verbs() { return &state; }

#undef ibv_query_port
#undef ibv_reg_mr

ibv_device** ibv_get_device_list(int* count) {
  if (state.devices < 0) return errno = ENOSYS, nullptr;
  auto** list = new ibv_device*[static_cast<size_t>(state.devices) + 1]();
  for (int i = 0; i < state.devices; ++i) {
    auto* device = new FakeDevice();
    device->number = i;
    device->node_type = IBV_NODE_CA;
    std::snprintf(device->name, sizeof device->name, "fake_%d", i);
    list[i] = device;
  }
  if (count) *count = state.devices;
  return list;
}
void ibv_free_device_list(ibv_device** list) {
  for (ibv_device** device = list; *device; ++device) delete static_cast<FakeDevice*>(*device);
  delete[] list;
}
const char* ibv_get_device_name(ibv_device* device) { return device->name; }
__be64 ibv_get_device_guid(ibv_device*) { return htobe64(0xb8cef60300abcdef); }
ibv_context* ibv_open_device(ibv_device* device) {
  if (state.refuse_open && static_cast<FakeDevice*>(device)->number == state.devices - 1) return errno = EPERM, nullptr;
  auto* context = new ibv_context();
  context->device = device;
  context->ops.post_send = post_send;
  context->ops.poll_cq = poll_cq;
  const std::lock_guard lock(mutex);
  ++state.open_objects;
  return context;
}
int ibv_close_device(ibv_context* context) {
  const std::lock_guard lock(mutex);
  --state.open_objects;
  delete context;
  return 0;
}
int ibv_query_device(ibv_context*, ibv_device_attr* attributes) {
  std::memset(attributes, 0, sizeof *attributes);
  std::snprintf(attributes->fw_ver, sizeof attributes->fw_ver, "28.39.1002");
  attributes->vendor_id = 0x02c9;
  attributes->vendor_part_id = 4129;
  attributes->phys_port_cnt = 1;
  attributes->sys_image_guid = htobe64(0xb8cef60300abcdee);
  return 0;
}
int ibv_query_port(ibv_context* context, uint8_t port, _compat_ibv_port_attr* compat) {
  if (port != 1) return EINVAL;
  auto* attributes = reinterpret_cast<ibv_port_attr*>(compat);
  attributes->state = IBV_PORT_ACTIVE;
  attributes->phys_state = 5;
  attributes->active_mtu = IBV_MTU_4096;
  attributes->gid_tbl_len = gids();
  attributes->lid = state.ethernet ? 0 : static_cast<uint16_t>(number_of(context) + 1);
  attributes->sm_lid = state.ethernet ? 0 : 1;
  attributes->active_width = 2;
  attributes->active_speed = 128;
  attributes->link_layer = state.ethernet ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
  return 0;
}
int ibv_query_gid(ibv_context* context, uint8_t, int index, ibv_gid* gid) {
  if (index < 0 || index >= gids()) return -1;
  return put_gid(*gid, number_of(context), index), 0;
}
int ibv_query_gid_type(ibv_context*, uint8_t, unsigned index, int* type) { return *type = static_cast<int>(index % 2), 0; }
ssize_t _ibv_query_gid_table(ibv_context* context, ibv_gid_entry* entries, size_t most, uint32_t, size_t size) {
  if (state.old_kernel || size != sizeof *entries) return -EOPNOTSUPP;
  size_t count = 0;
  for (; count < most && count < static_cast<size_t>(gids()); ++count) {
    entries[count] = {};
    put_gid(entries[count].gid, number_of(context), static_cast<int>(count));
    entries[count].gid_index = static_cast<uint32_t>(count);
    entries[count].port_num = 1;
    entries[count].gid_type = !state.ethernet ? IBV_GID_TYPE_IB : count % 2 ? IBV_GID_TYPE_ROCE_V2 : IBV_GID_TYPE_ROCE_V1;
  }
  return static_cast<ssize_t>(count);
}
ibv_pd* ibv_alloc_pd(ibv_context* context) {
  const std::lock_guard lock(mutex);
  ++state.open_objects;
  return new ibv_pd{context, 0};
}
int ibv_dealloc_pd(ibv_pd* pd) {
  const std::lock_guard lock(mutex);
  --state.open_objects;
  delete pd;
  return 0;
}
ibv_mr* ibv_reg_mr(ibv_pd* pd, void* address, size_t size, int) {
  const std::lock_guard lock(mutex);
  auto* memory = new FakeMemory();
  memory->context = pd->context;
  memory->addr = address;
  memory->length = size;
  memory->lkey = memory->rkey = next_key++;
  memories[memory->rkey] = memory;
  ++state.open_objects;
  return memory;
}
int ibv_dereg_mr(ibv_mr* memory) {
  const std::lock_guard lock(mutex);
  memories.erase(memory->rkey);
  --state.open_objects;
  delete static_cast<FakeMemory*>(memory);
  return 0;
}
ibv_cq* ibv_create_cq(ibv_context* context, int, void*, ibv_comp_channel*, int) {
  const std::lock_guard lock(mutex);
  auto* cq = new FakeCq();
  cq->context = context;
  ++state.open_objects;
  return cq;
}
int ibv_destroy_cq(ibv_cq* cq) {
  const std::lock_guard lock(mutex);
  --state.open_objects;
  delete static_cast<FakeCq*>(cq);
  return 0;
}
ibv_qp* ibv_create_qp(ibv_pd* pd, ibv_qp_init_attr* init) {
  const std::lock_guard lock(mutex);
  auto* qp = new FakeQp();
  qp->context = pd->context;
  qp->number = number_of(pd->context);
  qp->cq = static_cast<FakeCq*>(init->send_cq);
  qp->qp_num = next_qp++;
  qp->state = IBV_QPS_RESET;
  qps[qp->qp_num] = qp;
  ++state.open_objects;
  return qp;
}
int ibv_modify_qp(ibv_qp* qp, ibv_qp_attr* attributes, int mask) {
  const std::lock_guard lock(mutex);
  auto& mine = *static_cast<FakeQp*>(qp);
  // The attributes that a reliable connection must be given on each step.
  const int required = attributes->qp_state == IBV_QPS_INIT  ? IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS
                       : attributes->qp_state == IBV_QPS_RTR ? IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                                                   IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER
                                                             : IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                                                   IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC;
  if (mask != required || static_cast<int>(mine.state) + 1 != static_cast<int>(attributes->qp_state)) return EINVAL;
  if (attributes->qp_state == IBV_QPS_RTR) {
    const auto peer = qps.find(attributes->dest_qp_num);
    const bool global = attributes->ah_attr.is_global != 0;
    if (peer == qps.end() || global != state.ethernet || attributes->path_mtu != IBV_MTU_4096) return EINVAL;
    ibv_gid expected;
    put_gid(expected, peer->second->number, attributes->ah_attr.grh.sgid_index);
    if (global && (attributes->ah_attr.grh.sgid_index >= gids() || std::memcmp(&expected, &attributes->ah_attr.grh.dgid, sizeof expected) != 0)) return EINVAL;
    if (!global && attributes->ah_attr.dlid != peer->second->number + 1) return EINVAL;
    if (peer->second->number == state.no_route_to) return ETIMEDOUT;
    if (state.isolated && peer->second->number % 2 != mine.number % 2) return ETIMEDOUT;
    mine.peer = attributes->dest_qp_num;
  }
  mine.state = attributes->qp_state;
  return 0;
}
int ibv_destroy_qp(ibv_qp* qp) {
  const std::lock_guard lock(mutex);
  qps.erase(qp->qp_num);
  --state.open_objects;
  delete static_cast<FakeQp*>(qp);
  return 0;
}

}  // extern "C"
