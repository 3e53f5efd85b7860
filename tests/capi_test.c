/* The C interface as a C99 program meets it: errors, sizing, struct growth, orders of destruction, clusters, ranks as threads, a chat. */
#define _POSIX_C_SOURCE 200809L
#include "dsinfer.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;
static const char* model_dir = DSINFER_MINI_DIR; /* or the first argument */
#define CHECK(condition)                                                                                                 \
  do {                                                                                                                   \
    if (!(condition)) {                                                                                                  \
      ++failures;                                                                                                        \
      printf("%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, dsinfer_last_error());              \
    }                                                                                                                    \
  } while (0)
#define OK(call) CHECK((call) == DSINFER_OK)

static dsinfer_text text_of(const char* s) {
  dsinfer_text t;
  t.data = s;
  t.size = strlen(s);
  return t;
}

static const char kConfig[] =
    "{\"model_type\":\"deepseek_v3\",\"architectures\":[\"DeepseekV3ForCausalLM\"],\"vocab_size\":256,\"hidden_size\":256,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":8,\"num_key_value_heads\":8,\"q_lora_rank\":128,\"kv_lora_rank\":128,"
    "\"qk_nope_head_dim\":32,\"qk_rope_head_dim\":16,\"v_head_dim\":32,\"intermediate_size\":512,\"moe_intermediate_size\":128,"
    "\"n_routed_experts\":16,\"num_experts_per_tok\":4,\"n_shared_experts\":1,\"first_k_dense_replace\":1,\"moe_layer_freq\":1,"
    "\"n_group\":4,\"topk_group\":2,\"norm_topk_prob\":true,\"routed_scaling_factor\":2.5,\"scoring_func\":\"sigmoid\","
    "\"topk_method\":\"noaux_tc\",\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"rope_scaling\":null,\"max_position_embeddings\":512,"
    "\"num_nextn_predict_layers\":0,\"bos_token_id\":0,\"eos_token_id\":1,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
    "\"attention_bias\":false,\"torch_dtype\":\"bfloat16\"}";

static void errors_are_told(void) {
  dsinfer_config* config = NULL;
  dsinfer_tokenizer* tokenizer = NULL;
  dsinfer_world* world = NULL;
  uint64_t needed = 0;
  CHECK(strcmp(dsinfer_status_name(DSINFER_PLAN_REFUSED), "plan_refused") == 0);
  CHECK(strlen(dsinfer_status_name(1234)) > 0);
  CHECK(strcmp(dsinfer_version(), "0.1.0") == 0);

  CHECK(dsinfer_config_load("/nonexistent/folder", &config) == DSINFER_NOT_FOUND);
  CHECK(strstr(dsinfer_last_error(), "/nonexistent/folder") != NULL);
  CHECK(config == NULL);
  CHECK(dsinfer_last_error_rank() == -1);
  CHECK(strcmp(dsinfer_last_error_host(), "") == 0);
  CHECK(dsinfer_config_load(NULL, &config) == DSINFER_INVALID_ARGUMENT);
  CHECK(strstr(dsinfer_last_error(), "path") != NULL);
  CHECK(dsinfer_config_parse(text_of("{}"), NULL) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_config_parse(text_of("{\"model_type\": \"llama\"}"), &config) == DSINFER_UNSUPPORTED);
  CHECK(dsinfer_config_parse(text_of("{nonsense"), &config) == DSINFER_BAD_FORMAT);
  CHECK(dsinfer_plan_spec(NULL, NULL, 0, &needed) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_tokenizer_load("/nonexistent/folder", &tokenizer) == DSINFER_NOT_FOUND);
  CHECK(dsinfer_engine_submit(NULL, NULL, NULL) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_decoder_push(NULL, 1, NULL) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_world_split(NULL, 0, 0, NULL) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_world_create_threads(0, &world) == DSINFER_INVALID_ARGUMENT);

  /* a success clears it */
  OK(dsinfer_world_create_single(&world));
  CHECK(strcmp(dsinfer_last_error(), "") == 0);
  CHECK(dsinfer_world_rank(world) == 0 && dsinfer_world_size(world) == 1);
  CHECK(strcmp(dsinfer_world_kind(world), "single") == 0);
  CHECK(dsinfer_world_set_stall_timeout(world, 1) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_world_set_stall_timeout(world, 5000));
  dsinfer_world_destroy(world);

  dsinfer_world_destroy(NULL);
  dsinfer_config_destroy(NULL);
  dsinfer_plan_destroy(NULL);
  dsinfer_forward_destroy(NULL);
  dsinfer_tokenizer_destroy(NULL);
  dsinfer_decoder_destroy(NULL);
  dsinfer_splitter_destroy(NULL);
  dsinfer_engine_destroy(NULL);
  CHECK(dsinfer_world_rank(NULL) == -1 && dsinfer_engine_event_fd(NULL) == -1 && dsinfer_tokenizer_id_limit(NULL) == -1);
}

static void* other_thread_sees_no_error(void* arg) {
  (void)arg;
  CHECK(strcmp(dsinfer_last_error(), "") == 0);
  return NULL;
}

static void errors_belong_to_their_thread(void) {
  pthread_t thread;
  dsinfer_config* config = NULL;
  CHECK(dsinfer_config_load("/nonexistent", &config) == DSINFER_NOT_FOUND);
  CHECK(pthread_create(&thread, NULL, other_thread_sees_no_error, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(strlen(dsinfer_last_error()) > 0);
}

static void plans_have_text_and_json(void) {
  dsinfer_config *config = NULL, *none = NULL;
  dsinfer_plan *plan = NULL, *again = NULL, *refused = NULL;
  dsinfer_config_info info = DSINFER_CONFIG_INFO_INIT;
  dsinfer_rank_plan rank = DSINFER_RANK_PLAN_INIT;
  dsinfer_rank_memory memory = DSINFER_RANK_MEMORY_INIT;
  int64_t eos[2] = {-1, -1};
  uint64_t needed = 0;
  char small[4], spec[64];
  char* json;
  OK(dsinfer_config_parse(text_of(kConfig), &config));
  OK(dsinfer_config_get_info(config, &info));
  CHECK(info.vocab_size == 256 && info.num_hidden_layers == 4 && info.n_routed_experts == 16 && info.bos_token_id == 0 && info.fp8 == 0);
  CHECK(strcmp(dsinfer_config_model_type(config), "deepseek_v3") == 0);
  OK(dsinfer_config_eos_ids(config, eos, 2, &needed));
  CHECK(needed == 1 && eos[0] == 1);

  OK(dsinfer_plan_solve(config, 16, "tp=2,pp=2,dp=4,ep=8", &plan));
  OK(dsinfer_plan_spec(plan, NULL, 0, &needed));
  CHECK(dsinfer_plan_spec(plan, small, sizeof small, &needed) == DSINFER_INVALID_ARGUMENT);
  CHECK(needed > sizeof small && needed <= sizeof spec);
  OK(dsinfer_plan_spec(plan, spec, sizeof spec, &needed));
  CHECK(strncmp(spec, "tp=2,pp=2,dp=4,ep=8", 19) == 0 && needed == strlen(spec) + 1);
  OK(dsinfer_plan_text(plan, NULL, 0, &needed));
  CHECK(needed > 20);
  OK(dsinfer_plan_to_json(plan, NULL, 0, &needed));
  json = malloc((size_t)needed);
  OK(dsinfer_plan_to_json(plan, json, needed, &needed));
  OK(dsinfer_plan_from_json(text_of(json), config, &again));
  dsinfer_config_destroy(config); /* plans stand alone */
  OK(dsinfer_plan_spec(again, spec, sizeof spec, &needed));
  CHECK(strncmp(spec, "tp=2,pp=2,dp=4,ep=8", 19) == 0);
  free(json);

  OK(dsinfer_plan_rank(plan, 15, &rank));
  CHECK(rank.pp_rank == 1 && rank.dp_rank == 3 && rank.tp_rank == 1 && rank.tp == 2 && rank.replicas == 1);
  CHECK(rank.layers_begin == 2 && rank.layers_end == 4 && rank.experts_end - rank.experts_begin == 2);
  CHECK(dsinfer_plan_rank(plan, 16, &rank) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_plan_rank_memory(plan, "/nonexistent", 0, &memory) == DSINFER_NOT_FOUND);

  OK(dsinfer_config_parse(text_of(kConfig), &none));
  CHECK(dsinfer_plan_solve(none, 3, "tp=3", &refused) == DSINFER_PLAN_REFUSED);
  CHECK(strstr(dsinfer_last_error(), "3") != NULL && refused == NULL);
  CHECK(dsinfer_plan_solve(none, 2, "banana=3", &refused) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_plan_solve(none, 4, NULL, &refused));
  dsinfer_plan_destroy(refused);
  dsinfer_config_destroy(none);
  dsinfer_plan_destroy(plan);
  dsinfer_plan_destroy(again);
}

/* A header from the future: more fields behind ours. */
typedef struct future_info {
  dsinfer_config_info known;
  int64_t new_field;
} future_info;
typedef struct future_request {
  dsinfer_request known;
  int64_t new_field;
} future_request;

static void plans_are_solved_for(void) {
  dsinfer_config* config = NULL;
  dsinfer_fleet* fleet = NULL;
  dsinfer_answer* answer = NULL;
  dsinfer_plan* plan = NULL;
  dsinfer_solve_request request = DSINFER_SOLVE_REQUEST_INIT;
  dsinfer_plan_memory memory = DSINFER_PLAN_MEMORY_INIT;
  dsinfer_prediction prediction = DSINFER_PREDICTION_INIT;
  char spec[64], small[4];
  uint64_t needed = 0;
  OK(dsinfer_config_parse(text_of(kConfig), &config));
  CHECK(dsinfer_fleet_describe(1, 4, "h21", "ib400x4", NULL, NULL, &fleet) == DSINFER_NOT_FOUND);
  CHECK(strstr(dsinfer_last_error(), "h21") != NULL);
  CHECK(dsinfer_fleet_describe(1, 4, NULL, "ib400x4", NULL, NULL, &fleet) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_fleet_describe(-1, 4, "h100-80g", "ib400x4", NULL, NULL, &fleet) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_fleet_describe(1, 4, "h100-80g", "ib400x4", NULL, NULL, &fleet));
  request.input_len = 64, request.output_len = 64, request.max_len = 256;
  request.precision = "fp4";
  CHECK(dsinfer_solve(config, fleet, &request, &answer) == DSINFER_INVALID_ARGUMENT);
  request.precision = "bf16";
  OK(dsinfer_solve(config, fleet, &request, &answer));
  CHECK(dsinfer_answer_feasible(answer) == 1 && dsinfer_answer_num_plans(answer) >= 1 && dsinfer_answer_nodes(answer) == 1);
  CHECK(dsinfer_answer_feasible(NULL) == 0 && dsinfer_answer_num_plans(NULL) == 0);
  OK(dsinfer_answer_memory(answer, 0, &memory));
  CHECK(memory.weights_bytes_max > 0 && memory.kv_tokens_per_dp_rank >= 256 && memory.room_bytes > 0);
  OK(dsinfer_answer_prediction(answer, 0, &prediction));
  CHECK(prediction.feasible == 1 && prediction.tpot_ms > 0 && prediction.tokens_per_s > 0);
  CHECK(dsinfer_answer_plan(answer, 1000, &plan) == DSINFER_INVALID_ARGUMENT && plan == NULL);
  OK(dsinfer_answer_plan(answer, 0, &plan));
  OK(dsinfer_plan_spec(plan, spec, sizeof spec, &needed));
  OK(dsinfer_answer_text(answer, NULL, 0, &needed));
  CHECK(needed > 100);
  OK(dsinfer_answer_to_json(answer, NULL, 0, &needed));
  OK(dsinfer_answer_svg(answer, NULL, 0, &needed));
  CHECK(dsinfer_answer_text(answer, small, sizeof small, &needed) == DSINFER_INVALID_ARGUMENT);
  dsinfer_plan_destroy(plan);
  dsinfer_answer_destroy(answer);
  answer = NULL;
  request.judge = "tp=8";
  OK(dsinfer_solve(config, fleet, &request, &answer)); /* refused, which is an answer */
  CHECK(dsinfer_answer_feasible(answer) == 0);
  dsinfer_answer_destroy(answer);
  answer = NULL;
  request.judge = NULL;
  CHECK(dsinfer_solve_nodes(config, fleet, &request, 4, &answer) == DSINFER_INVALID_ARGUMENT); /* no rate */
  request.rate = 1;
  OK(dsinfer_solve_nodes(config, fleet, &request, 4, &answer));
  dsinfer_answer_destroy(answer);
  dsinfer_answer_destroy(NULL);
  dsinfer_fleet_destroy(fleet);
  dsinfer_fleet_destroy(NULL);
  dsinfer_config_destroy(config);
}

static void structs_may_grow(void) {
  dsinfer_config* config = NULL;
  future_info info = {DSINFER_CONFIG_INFO_INIT, 7};
  dsinfer_config_info old = DSINFER_CONFIG_INFO_INIT;
  OK(dsinfer_config_parse(text_of(kConfig), &config));
  info.known.struct_size = sizeof info;
  OK(dsinfer_config_get_info(config, &info.known));
  CHECK(info.known.vocab_size == 256 && info.known.struct_size == sizeof info);
  CHECK(info.new_field == 7); /* not ours to write */
  old.struct_size = 8;
  CHECK(dsinfer_config_get_info(config, &old) == DSINFER_INVALID_ARGUMENT);
  CHECK(strstr(dsinfer_last_error(), "_INIT") != NULL);
  dsinfer_config_destroy(config);
}

/* ---- clusters ---- */

typedef dsinfer_status (*cluster_form)(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed);

static dsinfer_status as_text(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed) {
  return dsinfer_cluster_text(cluster, 0, buffer, capacity, needed);
}
static dsinfer_status as_environment(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed) {
  return dsinfer_cluster_environment(cluster, 0, buffer, capacity, needed);
}

/* The caller frees it. */
static char* form_of(const dsinfer_cluster* cluster, cluster_form form) {
  uint64_t needed = 0;
  char small[2], *text;
  OK(form(cluster, NULL, 0, &needed));
  CHECK(needed <= sizeof small || form(cluster, small, sizeof small, &needed) == DSINFER_INVALID_ARGUMENT);
  text = malloc(needed);
  OK(form(cluster, text, needed, &needed));
  CHECK(strlen(text) + 1 == needed);
  return text;
}

static const char kCluster[] =
    "{\"format\":\"dsinfer-cluster\",\"version\":1,\"nodes\":[{\"name\":\"n1\",\"nvlink\":true,\"gpus\":[{\"label\":\"GPU0\",\"memory_bytes\":1000},"
    "{\"label\":\"GPU1\",\"memory_bytes\":900}],\"host\":{\"memory_bytes\":5000},\"network\":{\"transport\":\"roce\",\"link_layer\":\"Ethernet\","
    "\"hca_count\":2,\"gid_index\":3,\"socket_ifname\":\"eth0\",\"gb_per_s_per_gpu\":25,\"judged\":true,\"environment\":{\"DSINFER_CAPI_A\":\"it's\"}},"
    "\"findings\":[{\"code\":\"c\",\"severity\":\"info\"}]},{\"name\":\"n2\"}],\"findings\":[{\"code\":\"hca-count-differs\",\"severity\":\"error\","
    "\"nodes\":[\"n1\",\"n2\"],\"text\":\"t\",\"evidence\":[\"e\"],\"advice\":\"a\"}],\"node_of_rank\":[0,1,1]}";

static void stored_clusters_answer(void) {
  dsinfer_cluster *cluster = NULL, *again = NULL, *chosen = NULL;
  dsinfer_node_info info = DSINFER_NODE_INFO_INIT;
  dsinfer_finding finding = DSINFER_FINDING_INIT;
  int32_t nodes[3] = {-1, -1, -1}, count = -1;
  uint64_t needed = 0;
  char *json, *text;
  OK(dsinfer_cluster_from_json(text_of(kCluster), &cluster));
  CHECK(dsinfer_cluster_num_nodes(cluster) == 2 && dsinfer_cluster_num_nodes(NULL) == -1);
  OK(dsinfer_cluster_node_of_rank(cluster, nodes, 3, &needed));
  CHECK(needed == 3 && nodes[0] == 0 && nodes[1] == 1 && nodes[2] == 1);

  OK(dsinfer_cluster_get_node(cluster, 0, &info));
  CHECK(strcmp(info.name, "n1") == 0 && strcmp(info.socket_ifname, "eth0") == 0 && strcmp(info.fallback_reason, "") == 0);
  CHECK(info.transport == DSINFER_TRANSPORT_ROCE && info.link_layer == DSINFER_LINK_LAYER_ETHERNET && info.gpu_count == 2 && info.nvlink == 1);
  CHECK(info.hca_count == 2 && info.gid_index == 3 && info.judged == 1 && info.gb_per_s_per_gpu == 25 && info.memory_bytes == 5000);
  CHECK(info.gpu_memory_bytes == 900);
  OK(dsinfer_cluster_get_node(cluster, 1, &info));
  CHECK(info.gpu_count == -1 && info.nvlink == -1 && info.hca_count == -1 && info.gid_index == -1 && info.transport == DSINFER_TRANSPORT_UNKNOWN);
  CHECK(dsinfer_cluster_get_node(cluster, 2, &info) == DSINFER_INVALID_ARGUMENT);

  OK(dsinfer_cluster_num_findings(cluster, -1, &count));
  CHECK(count == 1);
  OK(dsinfer_cluster_get_finding(cluster, -1, 0, &finding));
  CHECK(strcmp(finding.code, "hca-count-differs") == 0 && finding.severity == DSINFER_SEVERITY_ERROR && strcmp(finding.advice, "a") == 0);
  CHECK(finding.num_nodes == 2 && strcmp(finding.nodes[1].data, "n2") == 0 && finding.num_evidence == 1 && strcmp(finding.evidence[0].data, "e") == 0);
  OK(dsinfer_cluster_get_finding(cluster, 0, 0, &finding));
  CHECK(strcmp(finding.code, "c") == 0 && finding.num_nodes == 0);
  OK(dsinfer_cluster_num_findings(cluster, 1, &count));
  CHECK(count == 0);
  CHECK(dsinfer_cluster_get_finding(cluster, 1, 0, &finding) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_cluster_num_findings(cluster, 2, &count) == DSINFER_INVALID_ARGUMENT);

  json = form_of(cluster, dsinfer_cluster_to_json);
  OK(dsinfer_cluster_from_json(text_of(json), &again));
  text = form_of(again, dsinfer_cluster_to_json);
  CHECK(strcmp(json, text) == 0);
  free(json), free(text);
  text = form_of(cluster, as_text);
  CHECK(strstr(text, "hca-count-differs") != NULL);
  free(text);
  text = form_of(cluster, dsinfer_cluster_dot);
  CHECK(strncmp(text, "graph", 5) == 0);
  free(text);
  text = form_of(cluster, dsinfer_cluster_svg);
  CHECK(strstr(text, "<svg") != NULL);
  free(text);
  text = form_of(cluster, as_environment);
  CHECK(strstr(text, "export DSINFER_CAPI_A='it'\\''s'\n") != NULL);
  free(text);
  CHECK(dsinfer_cluster_environment(cluster, 2, NULL, 0, &needed) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_cluster_apply_environment(cluster, 0, &count));
  CHECK(count == 1 && getenv("DSINFER_CAPI_A") && strcmp(getenv("DSINFER_CAPI_A"), "it's") == 0);
  OK(dsinfer_cluster_apply_environment(cluster, 0, &count));
  CHECK(count == 0); /* it stays as it is */

  OK(dsinfer_cluster_choose_network(cluster, &chosen)); /* made anew from the facts: there are none of a network */
  OK(dsinfer_cluster_get_node(chosen, 0, &info));
  CHECK(info.transport == DSINFER_TRANSPORT_UNKNOWN && info.gpu_count == 2);
  dsinfer_cluster_destroy(chosen);
  dsinfer_cluster_destroy(again);
  dsinfer_cluster_destroy(cluster);
  dsinfer_cluster_destroy(NULL);
  CHECK(dsinfer_cluster_from_json(text_of("{}"), &cluster) == DSINFER_BAD_FORMAT);
  CHECK(strstr(dsinfer_last_error(), "format") != NULL);
}

static void machines_are_probed_imported_and_gathered(void) {
  dsinfer_cluster *cluster = NULL, *gathered = NULL;
  dsinfer_probe_options probe = DSINFER_PROBE_OPTIONS_INIT;
  dsinfer_gather_options options = DSINFER_GATHER_OPTIONS_INIT;
  dsinfer_node_info info = DSINFER_NODE_INFO_INIT;
  dsinfer_world* world = NULL;
  const char* environment[1] = {"NCCL_IB_DISABLE=1"};
  int32_t node = -1;
  uint64_t needed = 0;
  char* json;
  OK(dsinfer_cluster_probe(NULL, &cluster));
  OK(dsinfer_cluster_get_node(cluster, 0, &info));
  CHECK(dsinfer_cluster_num_nodes(cluster) == 1 && info.memory_bytes > 0 && strlen(info.name) > 0);
  dsinfer_cluster_destroy(cluster);

  probe.nvml_library = probe.verbs_library = probe.nccl_library = "";
  probe.environment = environment;
  probe.num_environment = 1;
  OK(dsinfer_cluster_probe(&probe, &cluster));
  json = form_of(cluster, dsinfer_cluster_to_json);
  CHECK(strstr(json, "NCCL_IB_DISABLE") != NULL);
  free(json);
  dsinfer_cluster_destroy(cluster);
  probe.reserved = 0, probe.struct_size = 8;
  CHECK(dsinfer_cluster_probe(&probe, &cluster) == DSINFER_INVALID_ARGUMENT);
  probe.struct_size = sizeof probe, probe.environment = NULL;
  CHECK(dsinfer_cluster_probe(&probe, &cluster) == DSINFER_INVALID_ARGUMENT); /* one variable, but none there */
  probe.num_environment = 0;

  OK(dsinfer_world_create_single(&world));
  options.probe = &probe;
  OK(dsinfer_cluster_gather(world, &options, &gathered));
  OK(dsinfer_cluster_node_of_rank(gathered, &node, 1, &needed));
  CHECK(needed == 1 && node == 0);
  options.reach_timeout = -1;
  CHECK(dsinfer_cluster_gather(world, &options, &cluster) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_cluster_gather(NULL, NULL, &cluster) == DSINFER_INVALID_ARGUMENT);
  dsinfer_world_destroy(world);
  dsinfer_cluster_destroy(gathered);

  OK(dsinfer_cluster_import_text(text_of("Infiniband device 'mlx5_0' port 1 status:\n\tstate:\t\t 4: ACTIVE\n\tphys state:\t 5: LinkUp\n"
                                         "\trate:\t\t 400 Gb/sec (4X NDR)\n\tlink_layer:\t InfiniBand\n"), "far", &cluster));
  OK(dsinfer_cluster_get_node(cluster, 0, &info));
  CHECK(strcmp(info.name, "far") == 0 && info.transport == DSINFER_TRANSPORT_IB && info.hca_count == 1);
  dsinfer_cluster_destroy(cluster);
  CHECK(dsinfer_cluster_import("/nonexistent/capture", &cluster) == DSINFER_NOT_FOUND);
  CHECK(strstr(dsinfer_last_error(), "/nonexistent/capture") != NULL);
}

/* ---- ranks as threads ---- */

static void* rank_main(void* arg) {
  dsinfer_world *world = arg, *half = NULL, *quarter = NULL;
  dsinfer_text parts[4], got, mine;
  char letter = (char)('a' + dsinfer_world_rank(world));
  int32_t rank = dsinfer_world_rank(world), from = -1, i;
  mine.data = &letter;
  mine.size = 1;
  OK(dsinfer_world_all_gather(world, mine, parts));
  for (i = 0; i < 4; ++i) CHECK(parts[i].size == 1 && parts[i].data[0] == 'a' + i);
  OK(dsinfer_world_broadcast(world, mine, 2, &got));
  CHECK(got.size == 1 && got.data[0] == 'c');
  OK(dsinfer_world_post(world, (rank + 1) % 4, mine));
  while (from < 0 && failures == 0) OK(dsinfer_world_receive(world, &from, &got));
  CHECK(from == (rank + 3) % 4 && got.size == 1 && got.data[0] == 'a' + from);

  OK(dsinfer_world_split(world, rank % 2, -rank, &half));
  OK(dsinfer_world_split(half, dsinfer_world_rank(half), 0, &quarter));
  dsinfer_world_destroy(world); /* parents first: the children hold them */
  CHECK(dsinfer_world_size(half) == 2 && dsinfer_world_rank(half) == (rank < 2 ? 1 : 0));
  OK(dsinfer_world_all_gather(half, mine, parts));
  CHECK(parts[0].data[0] > parts[1].data[0]);
  dsinfer_world_destroy(half);
  CHECK(dsinfer_world_size(quarter) == 1);
  dsinfer_world_destroy(quarter);
  return NULL;
}

static void ranks_may_be_threads(void) {
  dsinfer_world* worlds[4];
  pthread_t threads[4];
  int i;
  OK(dsinfer_world_create_threads(4, worlds));
  for (i = 0; i < 4; ++i) CHECK(pthread_create(&threads[i], NULL, rank_main, worlds[i]) == 0);
  for (i = 0; i < 4; ++i) CHECK(pthread_join(threads[i], NULL) == 0);
}

static void a_failure_reaches_all(void) {
  dsinfer_world* worlds[2];
  dsinfer_text mine = {"x", 1}, got;
  OK(dsinfer_world_create_threads(2, worlds));
  OK(dsinfer_world_report_failure(worlds[1], "the disk is full"));
  CHECK(dsinfer_world_broadcast(worlds[0], mine, 1, &got) == DSINFER_GROUP_FAILED);
  CHECK(strstr(dsinfer_last_error(), "the disk is full") != NULL);
  CHECK(dsinfer_last_error_rank() == 1);
  CHECK(strlen(dsinfer_last_error_host()) > 0);
  dsinfer_world_destroy(worlds[1]);
  dsinfer_world_destroy(worlds[0]);
}

/* ---- words without a model ---- */

static void chats_are_rendered_and_split(void) {
  dsinfer_message messages[2];
  dsinfer_chat chat = DSINFER_CHAT_INIT;
  dsinfer_splitter* splitter = NULL;
  dsinfer_text reasoning, content;
  uint64_t needed = 0;
  char prompt[256];
  int32_t format = -1;
  messages[0].role = DSINFER_ROLE_SYSTEM;
  messages[0].content = text_of("Be brief.");
  messages[1].role = DSINFER_ROLE_USER;
  messages[1].content = text_of("Hi");
  chat.messages = messages;
  chat.num_messages = 2;
  OK(dsinfer_chat_render(&chat, prompt, sizeof prompt, &needed));
  CHECK(strstr(prompt, "Be brief.") != NULL && strstr(prompt, "Hi") != NULL && needed == strlen(prompt) + 1);
  messages[1].role = 9;
  CHECK(dsinfer_chat_render(&chat, prompt, sizeof prompt, &needed) == DSINFER_INVALID_ARGUMENT);
  messages[1].role = DSINFER_ROLE_USER;
  chat.format = 77;
  CHECK(dsinfer_chat_render(&chat, prompt, sizeof prompt, &needed) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_chat_parse_name("v3.1", &format));
  CHECK(format == DSINFER_CHAT_V31);
  CHECK(dsinfer_chat_parse_name("v99", &format) == DSINFER_INVALID_ARGUMENT);

  OK(dsinfer_splitter_create(1, 1, &splitter));
  OK(dsinfer_splitter_push(splitter, text_of("because</thi"), &reasoning, &content));
  CHECK(content.size == 0);
  OK(dsinfer_splitter_push(splitter, text_of("nk>yes"), &reasoning, &content));
  CHECK(content.size == 3 && memcmp(content.data, "yes", 3) == 0);
  OK(dsinfer_splitter_finish(splitter, &reasoning, &content));
  dsinfer_splitter_destroy(splitter);
}

/* ---- loading for its own sake ---- */

static int32_t count_load(void* user, const dsinfer_load_progress* p) {
  CHECK(p->struct_size == sizeof *p && p->bytes_done <= p->bytes_total && p->all_bytes_total >= p->bytes_total);
  CHECK(p->num_rank_parts == 1 && p->rank_part[0] >= 0 && p->rank_part[0] <= 1 && p->slowest_rank == 0);
  ++*(int*)user;
  return 0;
}
static int32_t stop_load(void* user, const dsinfer_load_progress* p) {
  (void)user, (void)p;
  return 1;
}

static void loads_are_planned(const dsinfer_plan* plan) {
  dsinfer_load_plan* load = NULL;
  dsinfer_load_options options = DSINFER_LOAD_OPTIONS_INIT;
  double rate = -1;
  uint64_t needed = 0, with_ranges = 0;
  char* json;
  CHECK(dsinfer_load_plan_create("/nonexistent/model", plan, NULL, 0, &load) == DSINFER_NOT_FOUND);
  CHECK(dsinfer_load_plan_create(model_dir, plan, NULL, -1, &load) == DSINFER_INVALID_ARGUMENT);
  options.weights = 9;
  CHECK(dsinfer_load_plan_create(model_dir, plan, &options, 0, &load) == DSINFER_INVALID_ARGUMENT);
  CHECK(strstr(dsinfer_last_error(), "weights") != NULL && load == NULL);
  options.weights = DSINFER_WEIGHTS_AS_STORED;
  options.method = -1;
  CHECK(dsinfer_load_plan_create(model_dir, plan, &options, 0, &load) == DSINFER_INVALID_ARGUMENT);
  options.method = DSINFER_READ_AUTOMATIC;
  options.absorbed_bf16 = 2;
  CHECK(dsinfer_load_plan_create(model_dir, plan, &options, 0, &load) == DSINFER_INVALID_ARGUMENT);
  CHECK(strstr(dsinfer_last_error(), "absorbed_bf16") != NULL && load == NULL);
  options.absorbed_bf16 = 1;
  OK(dsinfer_load_plan_create(model_dir, plan, &options, 0, &load));
  OK(dsinfer_load_plan_json(load, 0, NULL, 0, &needed));
  CHECK(needed > 0);
  dsinfer_load_plan_destroy(load);
  load = NULL;
  OK(dsinfer_load_plan_create(model_dir, plan, NULL, 0, &load));
  OK(dsinfer_load_plan_text(load, NULL, 0, &needed));
  CHECK(needed > 20);
  OK(dsinfer_load_plan_json(load, 1, NULL, 0, &with_ranges));
  OK(dsinfer_load_plan_json(load, 0, NULL, 0, &needed));
  CHECK(needed < with_ranges);
  json = malloc((size_t)needed);
  OK(dsinfer_load_plan_json(load, 0, json, needed, &needed));
  CHECK(strstr(json, "\"read_amplification\"") && strstr(json, "\"seconds_estimate\": null") && strstr(json, "\"host_peak_bytes\""));
  free(json);
  CHECK(dsinfer_storage_probe(model_dir, NULL, -1, &rate) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_storage_probe(model_dir, NULL, 0.05, &rate));
  CHECK(rate > 0);
  OK(dsinfer_load_plan_estimate(load, rate));
  OK(dsinfer_load_plan_json(load, 0, NULL, 0, &needed));
  json = malloc((size_t)needed);
  OK(dsinfer_load_plan_json(load, 0, json, needed, &needed));
  CHECK(strstr(json, "\"seconds_estimate\": null") == NULL);
  free(json);
  dsinfer_load_plan_destroy(load);
  dsinfer_load_plan_destroy(NULL);
}

static void weights_are_loaded(const dsinfer_plan* plan) {
  dsinfer_world* world = NULL;
  dsinfer_weights* weights = NULL;
  dsinfer_load_options options = DSINFER_LOAD_OPTIONS_INIT;
  dsinfer_weight* list;
  char report[1024];
  int calls = 0;
  uint64_t count = 0, needed = 0, i;
  options.method = DSINFER_READ_PREAD;
  options.progress = stop_load;
  OK(dsinfer_world_create_single(&world));
  CHECK(dsinfer_weights_load(world, model_dir, plan, &options, &weights) == DSINFER_CANCELLED && weights == NULL);
  dsinfer_world_destroy(world);

  OK(dsinfer_world_create_single(&world));
  options.progress = count_load;
  options.progress_user = &calls;
  OK(dsinfer_weights_load(world, model_dir, plan, &options, &weights));
  dsinfer_world_destroy(world); /* the weights hold it */
  if (!weights) return;
  CHECK(calls > 0);
  OK(dsinfer_weights_report_json(weights, report, sizeof report, &needed));
  CHECK(strstr(report, "\"bytes_read\"") && strstr(report, "\"host_peak_bytes\"") && strstr(report, "pread"));
  OK(dsinfer_weights_tensors(weights, NULL, sizeof *list, 0, &count));
  CHECK(count > 10);
  list = calloc((size_t)count, sizeof *list);
  CHECK(dsinfer_weights_tensors(weights, list, sizeof *list, 1, &count) == DSINFER_INVALID_ARGUMENT);
  CHECK(dsinfer_weights_tensors(weights, list, 8, count, &count) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_weights_tensors(weights, list, sizeof *list, count, &count));
  for (i = 0; i < count; ++i) {
    CHECK(list[i].name[0] && list[i].dtype[0] && list[i].num_dims > 0 && list[i].shape[0] > 0 && list[i].data != NULL);
    CHECK(list[i].stride[list[i].num_dims - 1] >= 1 && (i == 0 || strcmp(list[i - 1].name, list[i].name) < 0));
  }
  free(list);
  dsinfer_weights_destroy(weights);
  dsinfer_weights_destroy(NULL);
}

static void shards_are_saved_and_used(const dsinfer_plan* plan) {
  dsinfer_world* world = NULL;
  dsinfer_weights* weights = NULL;
  dsinfer_load_options options = DSINFER_LOAD_OPTIONS_INIT;
  char folder[] = "/tmp/dsinfer_capi_XXXXXX", report[1024], command[64];
  uint64_t needed = 0;
  CHECK(mkdtemp(folder) != NULL);
  OK(dsinfer_world_create_single(&world));
  CHECK(dsinfer_shards_save(world, model_dir, plan, NULL, NULL) == DSINFER_INVALID_ARGUMENT);
  OK(dsinfer_shards_save(world, model_dir, plan, folder, NULL));
  options.shard_cache = folder;
  OK(dsinfer_weights_load(world, model_dir, plan, &options, &weights));
  OK(dsinfer_weights_report_json(weights, report, sizeof report, &needed));
  CHECK(strstr(report, "\"from_shard_cache\": true") != NULL);
  dsinfer_weights_destroy(weights);
  dsinfer_world_destroy(world);
  snprintf(command, sizeof command, "rm -r %s", folder);
  CHECK(system(command) == 0);
}

static void checkpoints_are_checked(void) {
  dsinfer_world* world = NULL;
  dsinfer_verification* report = NULL;
  char json[1024];
  uint64_t needed = 0;
  int calls = 0;
  OK(dsinfer_world_create_single(&world));
  CHECK(dsinfer_checkpoint_verify(world, model_dir, 7, NULL, NULL, NULL, &report) == DSINFER_INVALID_ARGUMENT && report == NULL);
  CHECK(dsinfer_verification_good(NULL) == 0);
  OK(dsinfer_checkpoint_verify(world, model_dir, DSINFER_VERIFY_QUICK, NULL, count_load, &calls, &report));
  CHECK(dsinfer_verification_good(report) == 1 && calls > 0);
  OK(dsinfer_verification_json(report, json, sizeof json, &needed));
  CHECK(strstr(json, "\"good\": true") && strstr(json, "\"content_hash\": null"));
  dsinfer_verification_destroy(report);
  dsinfer_verification_destroy(NULL);
  dsinfer_world_destroy(world);
}

static void weights_can_be_looked_at(void) {
  dsinfer_config* config = NULL;
  dsinfer_plan *one = NULL, *four = NULL;
  OK(dsinfer_config_load(model_dir, &config));
  OK(dsinfer_plan_solve(config, 1, NULL, &one));
  OK(dsinfer_plan_solve(config, 4, "tp=2,dp=2", &four));
  loads_are_planned(four);
  weights_are_loaded(one);
  shards_are_saved_and_used(one);
  checkpoints_are_checked();
  dsinfer_plan_destroy(four);
  dsinfer_plan_destroy(one);
  dsinfer_config_destroy(config);
}

/* ---- a chat with the shipped model ---- */

static int32_t count_progress(void* user, int64_t done, int64_t total) {
  CHECK(done <= total && total > 0);
  ++*(int*)user;
  return 0;
}
static int32_t stop_at_once(void* user, int64_t done, int64_t total) {
  (void)user, (void)done, (void)total;
  return 1;
}
static int32_t count_lines(void* user, int32_t level, dsinfer_text line) {
  CHECK(level >= DSINFER_LOG_DEBUG && level <= DSINFER_LOG_ERROR && line.size > 0);
  return ++*(int*)user >= 2; /* two are enough */
}

static uint64_t encode_prompt(const dsinfer_tokenizer* tokenizer, const char* text, int32_t* ids, uint64_t capacity) {
  dsinfer_message message;
  dsinfer_chat chat = DSINFER_CHAT_INIT;
  uint64_t count = 0;
  message.role = DSINFER_ROLE_USER;
  message.content = text_of(text);
  chat.messages = &message;
  chat.num_messages = 1;
  OK(dsinfer_chat_detect(model_dir, &chat.format));
  OK(dsinfer_chat_encode(&chat, tokenizer, ids, capacity, &count));
  return count;
}

/* Steps until `id` has finished; the answer goes to `answer`, its ids to `ids`. Gives the finish reason. */
static int32_t collect(dsinfer_engine* engine, uint64_t id, uint64_t room, char* answer, size_t answer_size, int32_t* ids, uint64_t* num_ids) {
  dsinfer_event events[8];
  uint64_t count = 0, i;
  int32_t result = DSINFER_STEP_WORKED, reason = DSINFER_FINISH_NONE;
  answer[0] = 0;
  *num_ids = 0;
  while (result != DSINFER_STEP_IDLE && failures == 0) {
    OK(dsinfer_engine_step(engine, 1000, events, sizeof events[0], room, &count, &result));
    CHECK(count <= room);
    for (i = 0; i < count; ++i) {
      const dsinfer_event* e = &events[i];
      CHECK(e->text.data != NULL && e->text.data[e->text.size] == 0);
      if (e->request != id) continue;
      if (strlen(answer) + e->text.size < answer_size) strcat(answer, e->text.data);
      if (e->kind == DSINFER_EVENT_TOKEN && *num_ids < 64) ids[(*num_ids)++] = e->token;
      if (e->kind == DSINFER_EVENT_FINISHED) {
        reason = e->reason;
        CHECK(e->prompt_tokens > 0 && e->completion_tokens > 0);
      }
      if (e->kind == DSINFER_EVENT_ERROR) reason = DSINFER_FINISH_ERROR;
    }
  }
  return reason;
}

static void a_chat_runs(const dsinfer_tokenizer* tokenizer, dsinfer_world** world) {
  dsinfer_forward_options forward = DSINFER_FORWARD_OPTIONS_INIT;
  dsinfer_engine_options options = DSINFER_ENGINE_OPTIONS_INIT;
  dsinfer_load_options load = DSINFER_LOAD_OPTIONS_INIT;
  future_request future = {DSINFER_REQUEST_INIT, 0};
  dsinfer_request request = DSINFER_REQUEST_INIT;
  dsinfer_engine* engine = NULL;
  dsinfer_plan* plan = NULL;
  dsinfer_event events[1];
  int32_t prompt[128], ids[64], again[64], alive = -1, result;
  uint64_t id = 0, num_ids = 0, num_again = 0, needed = 0, count = 0;
  char answer[2048], second[2048], stats[8192], spec[64];
  int progress = 0, lines = 0;
  struct pollfd ready;

  forward.model = model_dir;
  forward.load = &load;
  load.method = 77;
  options.forward = &forward;
  CHECK(dsinfer_engine_create(*world, &options, &engine) == DSINFER_INVALID_ARGUMENT);
  options.forward = NULL;
  load.method = DSINFER_READ_PREAD;
  forward.max_len = 256;
  forward.max_sequences = 4;
  forward.threads = 1;
  CHECK(dsinfer_engine_create(*world, &options, &engine) == DSINFER_INVALID_ARGUMENT); /* no forward options */
  options.forward = &forward;
  options.tokenizer = tokenizer;
  forward.progress = stop_at_once;
  CHECK(dsinfer_engine_create(*world, &options, &engine) == DSINFER_CANCELLED);
  CHECK(engine == NULL);

  /* on a world of its own: what was cancelled may have left a mark on the other */
  dsinfer_world_destroy(*world);
  OK(dsinfer_world_create_single(world));
  OK(dsinfer_world_set_log_callback(*world, count_lines, &lines));
  forward.progress = count_progress;
  forward.progress_user = &progress;
  OK(dsinfer_engine_create(*world, &options, &engine));
  if (!engine) return;
  CHECK(progress > 0 && lines <= 2);
  dsinfer_world_destroy(*world); /* the engine holds it */
  *world = NULL;

  OK(dsinfer_engine_get_plan(engine, &plan));
  OK(dsinfer_plan_spec(plan, spec, sizeof spec, &needed));
  request.prompt = prompt;
  CHECK(dsinfer_engine_submit(engine, &request, &id) == DSINFER_INVALID_ARGUMENT); /* empty prompt */
  request.prompt_size = encode_prompt(tokenizer, "Hello! Who are you?", prompt, 128);
  request.max_tokens = 24;
  CHECK(request.prompt_size > 3);
  request.top_p = -1;
  CHECK(dsinfer_engine_submit(engine, &request, &id) == DSINFER_INVALID_ARGUMENT);
  request.top_p = 1;
  OK(dsinfer_engine_submit(engine, &request, &id));
  CHECK(id >= 1);
  ready.fd = dsinfer_engine_event_fd(engine);
  ready.events = POLLIN;
  CHECK(ready.fd >= 0 && poll(&ready, 1, 1000) == 1);
  result = collect(engine, id, 8, answer, sizeof answer, ids, &num_ids);
  CHECK(result == DSINFER_FINISH_STOP || result == DSINFER_FINISH_LENGTH);
  CHECK(num_ids > 0 && strlen(answer) > 0);
  printf("answer: %s\n", answer);

  /* the same again through a future header, with room for a single event a call: the same tokens */
  future.known = request;
  future.known.struct_size = sizeof future;
  future.new_field = 1;
  CHECK(dsinfer_engine_submit(engine, &future.known, &id) == DSINFER_INVALID_ARGUMENT);
  future.new_field = 0;
  OK(dsinfer_engine_submit(engine, &future.known, &id));
  collect(engine, id, 1, second, sizeof second, again, &num_again);
  CHECK(num_again == num_ids && memcmp(ids, again, (size_t)num_ids * sizeof ids[0]) == 0 && strcmp(answer, second) == 0);

  /* cancel */
  request.ignore_eos = 1;
  request.max_tokens = 200;
  OK(dsinfer_engine_submit(engine, &request, &id));
  OK(dsinfer_engine_step(engine, 1000, events, sizeof events[0], 1, &count, &result));
  OK(dsinfer_engine_cancel(engine, id, &alive));
  CHECK(alive == 1);
  CHECK(collect(engine, id, 8, answer, sizeof answer, again, &num_again) == DSINFER_FINISH_CANCELLED);
  OK(dsinfer_engine_cancel(engine, id, &alive));
  CHECK(alive == 0);
  CHECK(dsinfer_engine_step(engine, 0, events, 8, 1, &count, &result) == DSINFER_INVALID_ARGUMENT); /* event_size */

  OK(dsinfer_engine_stats_text(engine, stats, sizeof stats, &needed));
  CHECK(strstr(stats, "dsinfer") != NULL);
  OK(dsinfer_engine_stats_json(engine, stats, sizeof stats, &needed));
  CHECK(stats[0] == '{');
  OK(dsinfer_engine_shutdown(engine));
  dsinfer_engine_destroy(engine);
  CHECK(strlen(spec) > 0);
  OK(dsinfer_plan_spec(plan, spec, sizeof spec, &needed)); /* outlives its engine */
  dsinfer_plan_destroy(plan);
}

static void forward_gives_logits(const dsinfer_tokenizer* tokenizer) {
  dsinfer_forward_options options = DSINFER_FORWARD_OPTIONS_INIT;
  dsinfer_forward_info info = DSINFER_FORWARD_INFO_INIT;
  dsinfer_forward_stats stats = DSINFER_FORWARD_STATS_INIT;
  dsinfer_forward* forward = NULL;
  dsinfer_world* world = NULL;
  dsinfer_sequence sequence;
  int32_t prompt[64], pages[8] = {0, 1, 2, 3, 4, 5, 6, 7}, last, best = 0, i;
  uint64_t needed = 0;
  float* logits;
  options.model = model_dir;
  options.max_len = 128;
  options.max_sequences = 2;
  options.threads = 1;
  OK(dsinfer_world_create_single(&world));
  options.cache = DSINFER_CACHE_FP8; /* no CPU has kernels for it */
  CHECK(dsinfer_forward_create(world, &options, &forward) == DSINFER_UNSUPPORTED);
  options.cache = 7;
  CHECK(dsinfer_forward_create(world, &options, &forward) == DSINFER_INVALID_ARGUMENT);
  options.cache = DSINFER_CACHE_AUTOMATIC;
  OK(dsinfer_forward_create(world, &options, &forward));
  dsinfer_world_destroy(world);
  if (!forward) return;
  OK(dsinfer_forward_get_info(forward, &info));
  CHECK(info.page_size == 16 && info.max_len == 128 && info.num_pages >= 8);
  memset(&sequence, 0, sizeof sequence);
  sequence.num_tokens = encode_prompt(tokenizer, "Hello!", prompt, 64);
  sequence.tokens = prompt;
  sequence.pages = pages;
  sequence.num_pages = (sequence.num_tokens + 15) / 16;
  last = (int32_t)sequence.num_tokens - 1;
  sequence.logit_rows = &last;
  sequence.num_logit_rows = 1;
  CHECK(dsinfer_forward_run(forward, &sequence, sizeof sequence, 1, NULL, 0, &needed) == DSINFER_INVALID_ARGUMENT);
  CHECK(needed == (uint64_t)info.vocab_size);
  logits = malloc((size_t)needed * sizeof *logits);
  OK(dsinfer_forward_run(forward, &sequence, sizeof sequence, 1, logits, needed, &needed));
  for (i = 1; i < info.vocab_size; ++i) best = logits[i] > logits[best] ? i : best;
  CHECK(best > 0 && logits[best] == logits[best]);
  free(logits);
  OK(dsinfer_forward_get_stats(forward, &stats));
  CHECK(stats.steps == 1 && stats.rows == sequence.num_tokens && stats.weight_bytes > 0);
  OK(dsinfer_forward_shutdown(forward));
  dsinfer_forward_destroy(forward);
}

static void tokens_become_text(dsinfer_tokenizer* tokenizer) {
  const char sample[] = "Rain, \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x99\x82!";
  dsinfer_decoder* decoder = NULL;
  dsinfer_text piece;
  int32_t ids[64], eos = -1;
  uint64_t count = 0, needed = 0, i;
  char text[128], streamed[128] = "";
  OK(dsinfer_tokenizer_encode(tokenizer, text_of(sample), 0, NULL, 0, &count));
  CHECK(count > 3 && count < 64);
  OK(dsinfer_tokenizer_encode(tokenizer, text_of(sample), 0, ids, 64, &count));
  OK(dsinfer_tokenizer_decode(tokenizer, ids, count, 1, text, sizeof text, &needed));
  CHECK(strcmp(text, sample) == 0 && needed == sizeof sample);
  CHECK(dsinfer_tokenizer_token_id(tokenizer, text_of("no such token"), &eos) == DSINFER_NOT_FOUND);
  CHECK(dsinfer_tokenizer_id_limit(tokenizer) > 1000);
  OK(dsinfer_decoder_create(tokenizer, 1, &decoder));
  dsinfer_tokenizer_destroy(tokenizer); /* the decoder holds what it needs */
  for (i = 0; i < count; ++i) {
    OK(dsinfer_decoder_push(decoder, ids[i], &piece));
    strncat(streamed, piece.data, (size_t)piece.size);
  }
  OK(dsinfer_decoder_finish(decoder, &piece));
  strncat(streamed, piece.data, (size_t)piece.size);
  CHECK(strcmp(streamed, sample) == 0);
  dsinfer_decoder_destroy(decoder);
}

int main(int argc, char** argv) {
  char config[4096];
  dsinfer_tokenizer* tokenizer = NULL;
  dsinfer_world* world = NULL;
  FILE* model;
  errors_are_told();
  errors_belong_to_their_thread();
  plans_have_text_and_json();
  plans_are_solved_for();
  structs_may_grow();
  stored_clusters_answer();
  machines_are_probed_imported_and_gathered();
  ranks_may_be_threads();
  a_failure_reaches_all();
  chats_are_rendered_and_split();

  if (argc > 1) model_dir = argv[1];
  snprintf(config, sizeof config, "%s/config.json", model_dir);
  model = fopen(config, "r");
  if (!model) {
    printf("no model in %s: the chat is left out\n", model_dir);
  } else {
    fclose(model);
    weights_can_be_looked_at();
    OK(dsinfer_tokenizer_load(model_dir, &tokenizer));
    OK(dsinfer_world_create_single(&world));
    a_chat_runs(tokenizer, &world);
    forward_gives_logits(tokenizer);
    tokens_become_text(tokenizer);
    dsinfer_world_destroy(world);
  }
  printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
  return failures != 0;
}
