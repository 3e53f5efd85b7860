/* C interface of libdsinfer: distributed inference of DeepSeek-V3-class models. C99; needs nothing but stddef.h and stdint.h.
 *
 * Ownership   What *_create, *_load, *_parse, *_solve give, *_destroy takes; NULL is fine there. Handles hold what they stand on
 *             (an engine its world and tokenizer), so they may be destroyed in any order. Arguments are only read during the call,
 *             unless stated otherwise. A dsinfer_text given back belongs to the handle named in the comment.
 * Errors      A fallible call returns dsinfer_status. dsinfer_last_error() and its relatives then tell more; they speak of this
 *             thread's last such call and stay until the next. Outputs are written on success only, unless stated otherwise.
 * Sizing      Text and arrays into the caller's memory: (buffer, capacity, needed). *needed is always the full size. buffer NULL with
 *             capacity 0 asks for the size only; a buffer that is too small gives DSINFER_INVALID_ARGUMENT. Text sizes count the final NUL.
 * Threads     "any thread": at any time. "one at a time": the caller keeps two threads out of the handle. "collective": every
 *             rank of the world calls it, in the same order. Unless stated otherwise: one at a time. Destroying excludes all else.
 * Options     Structs that begin with struct_size are filled from their _INIT macro. Fields are only ever appended; a library that is
 *             older than the caller's header takes such a struct as long as the fields it does not know are zero.
 * Numbers     Flags are int32_t, 0 or 1. Timeouts are milliseconds. Byte counts and lengths are 64 bits wide. */
#ifndef DSINFER_H
#define DSINFER_H

#include <stddef.h>
#include <stdint.h>

#define DSINFER_C_VERSION_MAJOR 0
#define DSINFER_C_VERSION_MINOR 1
#define DSINFER_C_VERSION_PATCH 0

#ifdef __GNUC__
#define DSINFER_CAPI __attribute__((visibility("default")))
#else
#define DSINFER_CAPI
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status and errors ------------------------------------------------------------------------------------------- */

typedef int32_t dsinfer_status;
enum {
  DSINFER_OK = 0,
  DSINFER_INVALID_ARGUMENT = 1, /* the caller's values do not make sense (shape, range, option) */
  DSINFER_NOT_FOUND = 2,        /* a file, folder, tensor or component is absent */
  DSINFER_IO = 3,               /* the operating system refused to read or write */
  DSINFER_BAD_FORMAT = 4,       /* a file was read but its content is wrong or contradicts itself */
  DSINFER_UNSUPPORTED = 5,      /* well formed, but this build or version cannot do it */
  DSINFER_PLAN_REFUSED = 6,     /* the parallel plan breaks a rule; the text names rule, dimension and divisor */
  DSINFER_OUT_OF_MEMORY = 7,    /* does not fit; the text gives bytes needed and bytes there */
  DSINFER_GROUP_FAILED = 8,     /* a rank of the group failed; final for the group */
  DSINFER_STALLED = 9,          /* nothing moved for longer than the stall limit */
  DSINFER_CANCELLED = 10,       /* a callback or a cancel call stopped the work */
  DSINFER_BUSY = 11,            /* no room now (queue full); try again */
  DSINFER_INTERNAL_ERROR = 12   /* a mistake of the library */
};

/* Text of this thread's last failed call: what was wrong, where, what to do. "" after a success. Valid until the thread's next call. */
DSINFER_CAPI const char* dsinfer_last_error(void);
/* Where it happened: the rank, or -1 if that is unknown or right here; the host's name, or "". */
DSINFER_CAPI int32_t dsinfer_last_error_rank(void);
DSINFER_CAPI const char* dsinfer_last_error_host(void);
/* "ok", "plan_refused", …; static. Any number is fine. Any thread. */
DSINFER_CAPI const char* dsinfer_status_name(dsinfer_status status);
/* Version of the library that runs, "0.1.0"; static. Compare with DSINFER_C_VERSION_* of the header. Any thread. */
DSINFER_CAPI const char* dsinfer_version(void);

/* Bytes that someone else owns. Not NUL-terminated unless stated; data may be NULL when size is 0. */
typedef struct dsinfer_text {
  const char* data;
  uint64_t size;
} dsinfer_text;

/* ---- World: the ranks of one job --------------------------------------------------------------------------------- */

typedef struct dsinfer_world dsinfer_world;

/* One rank, this process. */
DSINFER_CAPI dsinfer_status dsinfer_world_create_single(dsinfer_world** world);
/* `size` ranks inside this process: worlds[0 … size-1], one for each thread that the caller starts; each is driven by its own thread. */
DSINFER_CAPI dsinfer_status dsinfer_world_create_threads(int32_t size, dsinfer_world** worlds);
/* The processes of mpirun. Uses an MPI that is initialised already, else initialises it and finalises it with the last such world.
 * NOT_FOUND if libdsinfer_mpi is absent. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_world_create_mpi(dsinfer_world** world);
/* The same over the application's communicator, given as MPI_Comm_c2f(comm). Collective over it. */
DSINFER_CAPI dsinfer_status dsinfer_world_create_mpi_comm(int32_t fortran_handle, dsinfer_world** world);
/* Ranks with equal colour form a new world, ordered by (key, rank). Collective. */
DSINFER_CAPI dsinfer_status dsinfer_world_split(dsinfer_world* world, int32_t color, int32_t key, dsinfer_world** child);
DSINFER_CAPI void dsinfer_world_destroy(dsinfer_world* world);

/* -1 for NULL. Any thread. */
DSINFER_CAPI int32_t dsinfer_world_rank(const dsinfer_world* world);
DSINFER_CAPI int32_t dsinfer_world_size(const dsinfer_world* world);
/* "single", "threads", "mpi"; static. Any thread. */
DSINFER_CAPI const char* dsinfer_world_kind(const dsinfer_world* world);
/* How long a wait for other ranks may see nothing move before it fails with STALLED. 60,000 at first, 100 at least. */
DSINFER_CAPI dsinfer_status dsinfer_world_set_stall_timeout(dsinfer_world* world, int64_t milliseconds);

enum { DSINFER_LOG_DEBUG = 0, DSINFER_LOG_INFO = 1, DSINFER_LOG_WARNING = 2, DSINFER_LOG_ERROR = 3 };
/* One line without newline, valid during the call. Return 0 to go on, anything else to get no more lines. */
typedef int32_t (*dsinfer_log_callback)(void* user, int32_t level, dsinfer_text line);
/* Where log lines of this world go; NULL: nowhere, as at first. Called on the thread that drives the world. `user` must live as
 * long as the callback is set, that is until replaced or until the world and all that stands on it are destroyed. */
DSINFER_CAPI dsinfer_status dsinfer_world_set_log_callback(dsinfer_world* world, dsinfer_log_callback callback, void* user);

/* Root's bytes on every rank. *bytes belongs to the world and is valid until its next call. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_world_broadcast(dsinfer_world* world, dsinfer_text mine, int32_t root, dsinfer_text* bytes);
/* Every rank's bytes in rank order: parts[0 … size-1]; they belong to the world and are valid until its next call. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_world_all_gather(dsinfer_world* world, dsinfer_text mine, dsinfer_text* parts);
/* Hands a small message to `peer` and does not wait. */
DSINFER_CAPI dsinfer_status dsinfer_world_post(dsinfer_world* world, int32_t peer, dsinfer_text bytes);
/* The next message, if one is there now: *from is -1 if none is. *bytes belongs to the world and is valid until its next call. */
DSINFER_CAPI dsinfer_status dsinfer_world_receive(dsinfer_world* world, int32_t* from, dsinfer_text* bytes);
/* Tells every rank of the job that this one failed: all their calls then give GROUP_FAILED with this text. */
DSINFER_CAPI dsinfer_status dsinfer_world_report_failure(dsinfer_world* world, const char* text);

/* ---- Config: the model's facts ----------------------------------------------------------------------------------- */

typedef struct dsinfer_config dsinfer_config; /* immutable; any thread */

/* From folder/config.json, or the file itself. */
DSINFER_CAPI dsinfer_status dsinfer_config_load(const char* path, dsinfer_config** config);
/* From the text of a config.json. */
DSINFER_CAPI dsinfer_status dsinfer_config_parse(dsinfer_text json, dsinfer_config** config);
DSINFER_CAPI void dsinfer_config_destroy(dsinfer_config* config);

/* Set struct_size (the _INIT macro does), the call fills the rest. Names as in config.json. */
typedef struct dsinfer_config_info {
  uint64_t struct_size;
  int64_t vocab_size, hidden_size, num_hidden_layers, num_attention_heads;
  int64_t q_lora_rank; /* 0: none */
  int64_t kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
  int64_t intermediate_size, moe_intermediate_size;
  int64_t n_routed_experts, num_experts_per_tok, n_shared_experts, first_k_dense_replace;
  int64_t max_position_embeddings, num_nextn_predict_layers;
  int64_t bos_token_id; /* -1: none */
  int64_t fp8;          /* 1: weights are FP8 in blocks */
} dsinfer_config_info;
#define DSINFER_CONFIG_INFO_INIT {sizeof(dsinfer_config_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_config_get_info(const dsinfer_config* config, dsinfer_config_info* info);
/* "deepseek_v3", …; belongs to the config. */
DSINFER_CAPI const char* dsinfer_config_model_type(const dsinfer_config* config);
/* The ids that end an answer; two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_config_eos_ids(const dsinfer_config* config, int64_t* ids, uint64_t capacity, uint64_t* needed);

/* ---- Plan: who holds what ---------------------------------------------------------------------------------------- */

typedef struct dsinfer_plan dsinfer_plan; /* immutable; any thread */

/* spec: "tp=2,pp=2,dp=4,ep=8[,replicas=R][,micro_batches=M][,layers=3+2+3]", or NULL for a legal choice. PLAN_REFUSED names the rule. */
DSINFER_CAPI dsinfer_status dsinfer_plan_solve(const dsinfer_config* config, int32_t world_size, const char* spec, dsinfer_plan** plan);
/* From what dsinfer_plan_to_json gave. */
DSINFER_CAPI dsinfer_status dsinfer_plan_from_json(dsinfer_text json, const dsinfer_config* config, dsinfer_plan** plan);
DSINFER_CAPI void dsinfer_plan_destroy(dsinfer_plan* plan);

/* The degrees as a spec; for a person; as JSON. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_plan_spec(const dsinfer_plan* plan, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_plan_text(const dsinfer_plan* plan, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_plan_to_json(const dsinfer_plan* plan, char* buffer, uint64_t capacity, uint64_t* needed);

/* One rank's part. Ranges are half open. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_rank_plan {
  uint64_t struct_size;
  int32_t replica, pp_rank, dp_rank, tp_rank, ep_rank, moe_tp_rank; /* coordinates */
  int32_t tp, pp, dp, ep, moe_tp, replicas;                         /* degrees */
  int64_t layers_begin, layers_end, heads_begin, heads_end, vocab_begin, vocab_end, experts_begin, experts_end;
} dsinfer_rank_plan;
#define DSINFER_RANK_PLAN_INIT {sizeof(dsinfer_rank_plan), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_plan_rank(const dsinfer_plan* plan, int32_t world_rank, dsinfer_rank_plan* rank);

/* Bytes that one rank holds and reads. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_rank_memory {
  uint64_t struct_size;
  int64_t weight_bytes, cache_bytes_per_token, read_bytes;
} dsinfer_rank_memory;
#define DSINFER_RANK_MEMORY_INIT {sizeof(dsinfer_rank_memory), 0, 0, 0}
/* From the headers of the checkpoint in `folder`; no weights are read. */
DSINFER_CAPI dsinfer_status dsinfer_plan_rank_memory(const dsinfer_plan* plan, const char* folder, int32_t world_rank,
                                                     dsinfer_rank_memory* memory);

/* ---- Solver: which plan for which machines ------------------------------------------------------------------------ */

typedef struct dsinfer_fleet dsinfer_fleet; /* machines as the solver sees them; immutable; any thread */

/* nodes × gpus_per_node of one kind ("h20-96g"), joined by `between` ("roce400x8"), inside a node by `inside` (NULL: what the GPU has).
 * `catalogue`: path of a JSON file with more kinds, or NULL. INVALID_ARGUMENT, NOT_FOUND name the field and the kinds that there are. */
DSINFER_CAPI dsinfer_status dsinfer_fleet_describe(int32_t nodes, int32_t gpus_per_node, const char* gpu, const char* between,
                                                   const char* inside, const char* catalogue, dsinfer_fleet** fleet);
/* From a cluster in JSON, discovered or stored. */
DSINFER_CAPI dsinfer_status dsinfer_fleet_from_cluster_json(dsinfer_text json, const char* catalogue, dsinfer_fleet** fleet);
DSINFER_CAPI void dsinfer_fleet_destroy(dsinfer_fleet* fleet);

enum { DSINFER_OBJECTIVE_THROUGHPUT = 0, DSINFER_OBJECTIVE_LATENCY = 1 };
typedef struct dsinfer_solve_request {
  uint64_t struct_size;
  int64_t input_len, output_len; /* tokens of a request */
  int64_t concurrency;           /* requests in flight; 0: as many as memory and limits allow */
  double rate;                   /* requests a second to sustain; 0: not asked */
  double prefix_hit;             /* share of the input found in the cache, 0 … 1 */
  const char* precision;         /* "fp8", "fp8_bf16", "bf16", "int4"; NULL: the checkpoint's, as the GPU can compute it */
  const char* cache;             /* "bf16", "fp8", "fp8_scaled"; NULL: bf16 */
  double utilization;            /* of the memory that the driver reports; 0.95 at most */
  int64_t max_len;               /* a DP rank has to hold one sequence of this length */
  int64_t overhead_bytes;        /* in place of our own sum of activations, buffers and context; 0: our own */
  double ttft_ms, tpot_ms;       /* limits; 0: none */
  const char* judge;             /* judge this plan alone: "tp=8,pp=2"; NULL: search */
  double draft_acceptance;       /* with prediction_layer: tokens accepted a step beyond the first */
  int32_t objective;             /* DSINFER_OBJECTIVE_… */
  int32_t prediction_layer;
  int32_t redundant_experts;
  int32_t split_roles;
  int32_t top;                   /* plans in the answer */
  int32_t reserved;              /* 0 */
} dsinfer_solve_request;
#define DSINFER_SOLVE_REQUEST_INIT \
  {sizeof(dsinfer_solve_request), 2048, 512, 0, 0.0, 0.0, NULL, NULL, 0.9, 4096, 0, 0.0, 0.0, NULL, 0.0, 0, 0, 0, 0, 5, 0}

typedef struct dsinfer_answer dsinfer_answer; /* immutable; any thread */

/* Searches or judges. An infeasible question is an answer, not an error; INVALID_ARGUMENT names the field that makes no sense. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_solve(const dsinfer_config* config, const dsinfer_fleet* fleet, const dsinfer_solve_request* request,
                                          dsinfer_answer** answer);
/* How many nodes like the fleet's first the request's rate needs, max_nodes at most; the answer's plans are for that many. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_solve_nodes(const dsinfer_config* config, const dsinfer_fleet* fleet, const dsinfer_solve_request* request,
                                                int32_t max_nodes, dsinfer_answer** answer);
DSINFER_CAPI void dsinfer_answer_destroy(dsinfer_answer* answer);

/* 1 if a plan fits; plans in the answer, best first; nodes and GPUs that it is for. 0 for NULL. Any thread. */
DSINFER_CAPI int32_t dsinfer_answer_feasible(const dsinfer_answer* answer);
DSINFER_CAPI int32_t dsinfer_answer_num_plans(const dsinfer_answer* answer);
DSINFER_CAPI int32_t dsinfer_answer_nodes(const dsinfer_answer* answer);
/* Plan i, a new handle. */
DSINFER_CAPI dsinfer_status dsinfer_answer_plan(const dsinfer_answer* answer, int32_t i, dsinfer_plan** plan);

/* Of the fullest rank. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_plan_memory {
  uint64_t struct_size;
  int64_t budget_bytes, weights_bytes_max, overhead_bytes;
  int64_t room_bytes; /* negative: does not fit */
  int64_t cache_bytes_per_token_max, kv_tokens_per_dp_rank;
} dsinfer_plan_memory;
#define DSINFER_PLAN_MEMORY_INIT {sizeof(dsinfer_plan_memory), 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_answer_memory(const dsinfer_answer* answer, int32_t i, dsinfer_plan_memory* memory);

enum { DSINFER_CONFIDENCE_SPECIFICATION = 0, DSINFER_CONFIDENCE_INTERPOLATED = 1, DSINFER_CONFIDENCE_MEASURED = 2 };
/* All zero for a plan that does not fit. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_prediction {
  uint64_t struct_size;
  double ttft_ms, tpot_ms, tokens_per_s, tokens_per_s_per_gpu, prefill_tokens_per_s, requests_per_s;
  int64_t batch_per_dp_rank, concurrency, chunk_tokens;
  int32_t feasible, meets_limits;
  int32_t confidence; /* DSINFER_CONFIDENCE_… of tpot_ms */
  int32_t reserved;
} dsinfer_prediction;
#define DSINFER_PREDICTION_INIT {sizeof(dsinfer_prediction), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_answer_prediction(const dsinfer_answer* answer, int32_t i, dsinfer_prediction* prediction);

/* The whole answer for a person, as JSON, and its picture. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_answer_text(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_answer_to_json(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_answer_svg(const dsinfer_answer* answer, char* buffer, uint64_t capacity, uint64_t* needed);

/* ---- Loading: which bytes each rank reads, reading them once, checking them ---------------------------------------- */

/* A model is a folder or a URL: "http(s)://…", "s3://bucket/prefix", "hf://org/repo[@revision]". */

enum { DSINFER_WEIGHTS_AS_STORED = 0, DSINFER_WEIGHTS_BF16 = 1, DSINFER_WEIGHTS_FP8 = 2 };
/* MMAP: the CPU's matrices stay in their local files where they are held as they are stored; the files must not be changed meanwhile. */
enum { DSINFER_READ_AUTOMATIC = 0, DSINFER_READ_URING = 1, DSINFER_READ_DIRECT = 2, DSINFER_READ_PREAD = 3, DSINFER_READ_MMAP = 4 };

/* Given to the callback; valid during the call. Fields may be appended: struct_size tells how far the library knows it. */
typedef struct dsinfer_load_progress {
  uint64_t struct_size;
  int64_t bytes_done, bytes_total;         /* of this rank */
  int64_t all_bytes_done, all_bytes_total; /* over all ranks; on rank 0 alone, elsewhere this rank's own */
  double seconds;                          /* since it began */
  double bytes_per_second;                 /* over all ranks, in the last seconds */
  double seconds_left;                     /* at that rate; -1: not known yet */
  const double* rank_part;                 /* part done of each rank, 0 … 1; rank 0 alone */
  uint64_t num_rank_parts;
  int32_t slowest_rank;
  int32_t reserved;
} dsinfer_load_progress;
/* On the thread that loads. Return 0 to go on, anything else to cancel: all ranks get CANCELLED. */
typedef int32_t (*dsinfer_load_callback)(void* user, const dsinfer_load_progress* progress);

typedef struct dsinfer_load_options {
  uint64_t struct_size;
  const char* shard_cache;    /* folder of dsinfer_shards_save: a rank whose file is there and fits reads it alone; NULL: none */
  const char* download_cache; /* of hf:// files; NULL: $DSINFER_CACHE, else ~/.cache/dsinfer */
  const char* device;         /* NULL: "cpu" */
  int64_t host_bytes;         /* staging memory of a rank at most, 8 MiB at least; 0: 192 MiB */
  int32_t weights;            /* DSINFER_WEIGHTS_… */
  int32_t method;             /* DSINFER_READ_… */
  int32_t depth;              /* reads in flight of a rank; 0: the usual */
  int32_t absorbed_bf16;      /* 1: absorbed copies of kv_b_proj in BF16, as shards for a Hopper GPU in w8a8 must be; 0: F32. Where a GPU has kernels made for the
                                 model's dimensions, forwards and engines take 1 whatever stands here */
  dsinfer_load_callback progress; /* may be NULL */
  void* progress_user;
} dsinfer_load_options;
#define DSINFER_LOAD_OPTIONS_INIT {sizeof(dsinfer_load_options), NULL, NULL, NULL, 0, 0, 0, 0, 0, NULL, NULL}

/* Who reads what, made from headers alone: a dry run. */
typedef struct dsinfer_load_plan dsinfer_load_plan;
/* ranks_per_node: consecutive ranks of one node; 0: all on one. options may be NULL. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_load_plan_create(const char* model, const dsinfer_plan* plan, const dsinfer_load_options* options,
                                                     int32_t ranks_per_node, dsinfer_load_plan** load_plan);
DSINFER_CAPI void dsinfer_load_plan_destroy(dsinfer_load_plan* load_plan);
/* Sets the estimate of its seconds from what dsinfer_storage_probe gave. */
DSINFER_CAPI dsinfer_status dsinfer_load_plan_estimate(dsinfer_load_plan* load_plan, double bytes_per_second);
/* For a person; as JSON: read_amplification, bytes_read, seconds_estimate (or null), ranks[] with bytes_read, host_peak_bytes,
 * device_bytes, with_ranges = 1: and every range. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_load_plan_text(const dsinfer_load_plan* load_plan, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_load_plan_json(const dsinfer_load_plan* load_plan, int32_t with_ranges, char* buffer, uint64_t capacity,
                                                   uint64_t* needed);

/* Reads parts of the model's files for about `seconds`: bytes per second of this node; 0 where there is nothing to read. options may be
 * NULL. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_storage_probe(const char* model, const dsinfer_load_options* options, double seconds,
                                                  double* bytes_per_second);

/* A rank's weights, loaded for their own sake; engines and forwards load by themselves. Owns the memory; immutable; any thread. */
typedef struct dsinfer_weights dsinfer_weights;
/* Each rank reads its part and hands on what others need. options may be NULL. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_weights_load(dsinfer_world* world, const char* model, const dsinfer_plan* plan,
                                                 const dsinfer_load_options* options, dsinfer_weights** weights);
DSINFER_CAPI void dsinfer_weights_destroy(dsinfer_weights* weights);
/* What the load was: read_amplification, bytes_read, bytes_received, device_bytes, bytes_mapped, host_peak_bytes, seconds,
 * from_shard_cache, method.
 * Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_weights_report_json(const dsinfer_weights* weights, char* buffer, uint64_t capacity, uint64_t* needed);

/* Texts and arrays belong to the weights; texts are NUL-terminated. */
typedef struct dsinfer_weight {
  const char* name;     /* as in the checkpoint; absorbed copies end in "#key_up", "#value_up" */
  const char* dtype;    /* "F32", "BF16", "F16", "F8_E4M3", "U8" (int4 pairs) */
  const int64_t* shape; /* of this rank's part */
  const int64_t* stride; /* in elements */
  uint64_t num_dims;
  const void* data;     /* host memory, or device memory on a device */
} dsinfer_weight;
/* All of them, sorted by name. weight_size is sizeof(dsinfer_weight). Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_weights_tensors(const dsinfer_weights* weights, dsinfer_weight* tensors, uint64_t weight_size,
                                                    uint64_t capacity, uint64_t* needed);

/* Loads, and writes each rank's part to `folder` for dsinfer_load_options.shard_cache. A file is whole or absent whatever happens.
 * options may be NULL. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_shards_save(dsinfer_world* world, const char* model, const dsinfer_plan* plan, const char* folder,
                                                const dsinfer_load_options* options);

enum {
  DSINFER_VERIFY_QUICK = 0, /* headers, sizes, shapes, dtypes, index, scales, samples of the content */
  DSINFER_VERIFY_FULL = 1   /* and every byte: a hash of each tensor */
};
typedef struct dsinfer_verification dsinfer_verification; /* immutable; any thread */
/* The ranks share the work, each gets the whole report. Problems of the checkpoint are a report, not an error. `hashes`: file of an
 * earlier full run to compare with, written if it does not exist; NULL: none. progress may be NULL. hf:// copies are looked for in
 * $DSINFER_CACHE, else ~/.cache/dsinfer. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_checkpoint_verify(dsinfer_world* world, const char* model, int32_t depth, const char* hashes,
                                                      dsinfer_load_callback progress, void* progress_user,
                                                      dsinfer_verification** verification);
DSINFER_CAPI void dsinfer_verification_destroy(dsinfer_verification* verification);
/* 1: no problem was found. 0 for NULL. */
DSINFER_CAPI int32_t dsinfer_verification_good(const dsinfer_verification* verification);
/* good, tensors, bytes_checked, seconds, fingerprint, content_hash (or null), problems[]. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_verification_json(const dsinfer_verification* verification, char* buffer, uint64_t capacity,
                                                      uint64_t* needed);

/* ---- Forward: the forward pass alone, for applications with a scheduler and a sampler of their own ---------------- */

typedef struct dsinfer_forward dsinfer_forward;

/* Told while weights are loaded, on the thread that loads. Return 0 to go on, anything else to cancel: all ranks get CANCELLED. */
typedef int32_t (*dsinfer_progress_callback)(void* user, int64_t bytes_done, int64_t bytes_total);

/* AUTOMATIC: F32, or BF16 where a GPU has kernels made for the model's dimensions; those are not used with F32. FP8: UNSUPPORTED where there are none. */
enum { DSINFER_CACHE_AUTOMATIC = 0, DSINFER_CACHE_F32 = 1, DSINFER_CACHE_BF16 = 2, DSINFER_CACHE_FP8 = 3 };

typedef struct dsinfer_forward_options {
  uint64_t struct_size;
  const char* model;        /* folder with config.json and safetensors, or a URL; required */
  const dsinfer_plan* plan; /* rank 0's counts; NULL: a legal choice */
  const char* device;       /* NULL: "cpu" */
  int32_t threads;          /* CPU workers of this rank; 0: its share of the cores */
  int32_t w8a8;             /* FP8 weights: quantise activations too */
  int64_t max_tokens;       /* most rows of one dp rank in one step; 0: 512 */
  int64_t max_sequences;    /* most sequences of one dp rank in one step; 0: 64 */
  int64_t max_len;          /* longest sequence; 0: as the model */
  int64_t page_size;        /* positions in a cache page; 0: 16. 64 whatever stands here where a GPU has kernels made for the model's dimensions */
  int64_t num_pages;        /* cache pages of page_size positions of each dp rank (where pages of 64 are used: as many as hold the same); 0: as the others
                               want, within memory */
  dsinfer_progress_callback progress; /* may be NULL */
  void* progress_user;
  const dsinfer_load_options* load; /* how weights are read and what they are held as; NULL: the usual. Its device is not looked at */
  int32_t cache;            /* DSINFER_CACHE_…: what the latent cache is held as */
  int32_t reserved;         /* 0 */
} dsinfer_forward_options;
#define DSINFER_FORWARD_OPTIONS_INIT {sizeof(dsinfer_forward_options), NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0, 0}

/* Loads the model. The world stays alive as long as needed, its handle may go. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_forward_create(dsinfer_world* world, const dsinfer_forward_options* options, dsinfer_forward** forward);
/* On rank 0 it shuts the followers down. */
DSINFER_CAPI void dsinfer_forward_destroy(dsinfer_forward* forward);

/* What was decided at creation. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_forward_info {
  uint64_t struct_size;
  int64_t vocab_size, num_pages, page_size, max_len;
} dsinfer_forward_info;
#define DSINFER_FORWARD_INFO_INIT {sizeof(dsinfer_forward_info), 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_forward_get_info(const dsinfer_forward* forward, dsinfer_forward_info* info);
/* A new handle of its plan. */
DSINFER_CAPI dsinfer_status dsinfer_forward_get_plan(const dsinfer_forward* forward, dsinfer_plan** plan);

/* Consecutive rows of one sequence. Page numbers are the caller's: pages[i] holds positions i·page_size …, the same on every step. */
typedef struct dsinfer_sequence {
  int32_t dp_rank;
  int32_t decode;            /* 1: absorbed attention (cheap for few rows); 0: expanded (prefill) */
  int64_t position;          /* of the first row */
  const int32_t* tokens;     /* the rows */
  uint64_t num_tokens;
  const int32_t* pages;      /* covers position + num_tokens positions */
  uint64_t num_pages;
  const int32_t* logit_rows; /* rows whose logits are wanted */
  uint64_t num_logit_rows;
} dsinfer_sequence;

/* Rank 0: one step over all ranks. sequence_size is sizeof(dsinfer_sequence). logits: [wanted rows, vocab_size], in the order of the
 * sequences and their logit_rows; `capacity` and *needed count floats. Too small a capacity gives INVALID_ARGUMENT before anything ran. */
DSINFER_CAPI dsinfer_status dsinfer_forward_run(dsinfer_forward* forward, const dsinfer_sequence* sequences, uint64_t sequence_size,
                                                uint64_t num_sequences, float* logits, uint64_t capacity, uint64_t* needed);
/* Other ranks: takes part in steps until `timeout` passes (*alive = 1) or rank 0 shuts down (*alive = 0). */
DSINFER_CAPI dsinfer_status dsinfer_forward_follow(dsinfer_forward* forward, int64_t timeout, int32_t* alive);
/* Rank 0: followers come back with *alive = 0. */
DSINFER_CAPI dsinfer_status dsinfer_forward_shutdown(dsinfer_forward* forward);

/* What this rank did so far. Set struct_size (the _INIT macro does), the call fills the rest. */
typedef struct dsinfer_forward_stats {
  uint64_t struct_size;
  int64_t weight_bytes, cache_bytes;
  uint64_t steps, rows, expert_rows_sent, expert_rows_received, expert_rows_computed;
  uint64_t comm_bytes_sent, comm_bytes_received, comm_wait_ns;
} dsinfer_forward_stats;
#define DSINFER_FORWARD_STATS_INIT {sizeof(dsinfer_forward_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_forward_get_stats(const dsinfer_forward* forward, dsinfer_forward_stats* stats);

/* ---- Tokenizer and chat: words ------------------------------------------------------------------------------------ */

typedef struct dsinfer_tokenizer dsinfer_tokenizer; /* immutable; any thread */

/* From a tokenizer.json or the folder that holds it. */
DSINFER_CAPI dsinfer_status dsinfer_tokenizer_load(const char* path, dsinfer_tokenizer** tokenizer);
DSINFER_CAPI dsinfer_status dsinfer_tokenizer_parse(dsinfer_text json, dsinfer_tokenizer** tokenizer);
DSINFER_CAPI void dsinfer_tokenizer_destroy(dsinfer_tokenizer* tokenizer);

/* Text to ids; no BOS is put in front. literal = 1: markers such as <|User|> in the text become ordinary tokens. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_tokenizer_encode(const dsinfer_tokenizer* tokenizer, dsinfer_text text, int32_t literal, int32_t* ids,
                                                     uint64_t capacity, uint64_t* needed);
/* Ids to UTF-8, invalid sequences replaced by U+FFFD. Two-call sizing; the text may hold NUL characters. */
DSINFER_CAPI dsinfer_status dsinfer_tokenizer_decode(const dsinfer_tokenizer* tokenizer, const int32_t* ids, uint64_t num_ids,
                                                     int32_t skip_special, char* buffer, uint64_t capacity, uint64_t* needed);
/* The id of a token by its exact content; NOT_FOUND if there is none. */
DSINFER_CAPI dsinfer_status dsinfer_tokenizer_token_id(const dsinfer_tokenizer* tokenizer, dsinfer_text token, int32_t* id);
/* One past the largest id; -1 for NULL. */
DSINFER_CAPI int32_t dsinfer_tokenizer_id_limit(const dsinfer_tokenizer* tokenizer);

/* Text of an answer as its tokens come, never a cut UTF-8 character. Holds its tokenizer. */
typedef struct dsinfer_decoder dsinfer_decoder;
DSINFER_CAPI dsinfer_status dsinfer_decoder_create(const dsinfer_tokenizer* tokenizer, int32_t skip_special, dsinfer_decoder** decoder);
DSINFER_CAPI void dsinfer_decoder_destroy(dsinfer_decoder* decoder);
/* *text (maybe empty) is what can be shown now; it belongs to the decoder and is valid until its next call. */
DSINFER_CAPI dsinfer_status dsinfer_decoder_push(dsinfer_decoder* decoder, int32_t id, dsinfer_text* text);
DSINFER_CAPI dsinfer_status dsinfer_decoder_finish(dsinfer_decoder* decoder, dsinfer_text* text);

/* R1_BARE: R1 of January 2025 and R1-0528, whose prompt leaves <think> to the model. */
enum { DSINFER_CHAT_V2 = 0, DSINFER_CHAT_V3 = 1, DSINFER_CHAT_R1 = 2, DSINFER_CHAT_V31 = 3, DSINFER_CHAT_R1_BARE = 4 };
enum { DSINFER_ROLE_SYSTEM = 0, DSINFER_ROLE_USER = 1, DSINFER_ROLE_ASSISTANT = 2 };

typedef struct dsinfer_message {
  uint64_t role; /* DSINFER_ROLE_… */
  dsinfer_text content;
} dsinfer_message;

typedef struct dsinfer_chat {
  uint64_t struct_size;
  int32_t format;   /* DSINFER_CHAT_… */
  int32_t thinking; /* 1: ask for reasoning (V3.1) */
  int32_t trusted;  /* encode only. 0: contents are literal, markers in them cannot forge turns; 1: as the published templates do */
  int32_t reserved; /* 0 */
  const dsinfer_message* messages;
  uint64_t num_messages;
  uint64_t message_size; /* sizeof(dsinfer_message) */
} dsinfer_chat;
#define DSINFER_CHAT_INIT {sizeof(dsinfer_chat), DSINFER_CHAT_V3, 0, 0, 0, NULL, 0, sizeof(dsinfer_message)}

/* Which format a model folder uses; NOT_FOUND if it is none of the known ones. */
DSINFER_CAPI dsinfer_status dsinfer_chat_detect(const char* folder, int32_t* format);
/* "v2" "v3" "r1" "v3.1" */
DSINFER_CAPI dsinfer_status dsinfer_chat_parse_name(const char* name, int32_t* format);
/* The prompt with markers, ending with the generation prompt if the last message is the user's. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_chat_render(const dsinfer_chat* chat, char* buffer, uint64_t capacity, uint64_t* needed);
/* The same as ids. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_chat_encode(const dsinfer_chat* chat, const dsinfer_tokenizer* tokenizer, int32_t* ids,
                                                uint64_t capacity, uint64_t* needed);

/* Splits an answer into reasoning and content while it streams. */
typedef struct dsinfer_splitter dsinfer_splitter;
/* opened: the prompt ended with <think>. auto_open: a leading <think> of the answer opens reasoning. */
DSINFER_CAPI dsinfer_status dsinfer_splitter_create(int32_t opened, int32_t auto_open, dsinfer_splitter** splitter);
DSINFER_CAPI void dsinfer_splitter_destroy(dsinfer_splitter* splitter);
/* Both texts belong to the splitter and are valid until its next call. */
DSINFER_CAPI dsinfer_status dsinfer_splitter_push(dsinfer_splitter* splitter, dsinfer_text text, dsinfer_text* reasoning, dsinfer_text* content);
DSINFER_CAPI dsinfer_status dsinfer_splitter_finish(dsinfer_splitter* splitter, dsinfer_text* reasoning, dsinfer_text* content);

/* ---- Engine: requests in, events out ------------------------------------------------------------------------------ */

/* Every rank creates the same engine. Rank 0 of each replica leads: it submits, steps, reads events, cancels. The others follow. */
typedef struct dsinfer_engine dsinfer_engine;

typedef struct dsinfer_engine_options {
  uint64_t struct_size;
  const dsinfer_forward_options* forward; /* model, plan, device, sizes; required */
  const dsinfer_tokenizer* tokenizer;     /* NULL: no text, no stop strings. Used on the leader only; held by the engine */
  int64_t max_queue;                      /* requests waiting or running; 0: 1024 */
  int32_t micro_batches;                  /* batches in flight; 0: the plan's */
  int32_t shuffle_pages;                  /* for tests */
} dsinfer_engine_options;
#define DSINFER_ENGINE_OPTIONS_INIT {sizeof(dsinfer_engine_options), NULL, NULL, 0, 0, 0}

/* Loads the model. The world stays alive as long as needed, its handle may go. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_engine_create(dsinfer_world* world, const dsinfer_engine_options* options, dsinfer_engine** engine);
/* On the leader it shuts the followers down; requests alive are dropped. */
DSINFER_CAPI void dsinfer_engine_destroy(dsinfer_engine* engine);
/* A new handle of its plan. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_engine_get_plan(const dsinfer_engine* engine, dsinfer_plan** plan);

typedef struct dsinfer_request {
  uint64_t struct_size;
  const int32_t* prompt; /* token ids, at least one */
  uint64_t prompt_size;
  int64_t max_tokens;        /* new tokens at most; also limited by the context */
  const int32_t* stop_tokens; /* in addition to the model's own */
  uint64_t num_stop_tokens;
  const dsinfer_text* stop; /* stop strings; the answer ends before them */
  uint64_t num_stop;
  uint64_t seed;            /* random numbers are keyed by (seed, position) */
  float temperature;        /* 0: greedy */
  float top_p;              /* 1: off */
  float min_p;              /* 0: off */
  float repetition_penalty; /* 1: off */
  float presence_penalty, frequency_penalty;
  int32_t top_k;    /* 0: off */
  int32_t logprobs; /* alternatives to report per token, 0 … 20 */
  int32_t ignore_eos;
  int32_t reserved; /* 0 */
} dsinfer_request;
#define DSINFER_REQUEST_INIT \
  {sizeof(dsinfer_request), NULL, 0, 256, NULL, 0, NULL, 0, 0, 0.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0, 0, 0, 0}

/* Leader: gives the request's id (1, 2, …). INVALID_ARGUMENT (empty or too long prompt, unknown token, bad value), BUSY. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_engine_submit(dsinfer_engine* engine, const dsinfer_request* request, uint64_t* id);
/* Leader: the request ends with DSINFER_FINISH_CANCELLED at a next step. *alive (may be NULL): whether there was one. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_engine_cancel(dsinfer_engine* engine, uint64_t id, int32_t* alive);

enum { DSINFER_STEP_WORKED = 0, DSINFER_STEP_IDLE = 1, DSINFER_STEP_SHUTDOWN = 2 };
enum { DSINFER_EVENT_TOKEN = 0, DSINFER_EVENT_FINISHED = 1, DSINFER_EVENT_ERROR = 2 };
enum { DSINFER_FINISH_NONE = 0, DSINFER_FINISH_STOP = 1, DSINFER_FINISH_LENGTH = 2, DSINFER_FINISH_CANCELLED = 3, DSINFER_FINISH_ERROR = 4 };

typedef struct dsinfer_token_logprob {
  int32_t id;
  float logprob;
} dsinfer_token_logprob;

/* One thing that happened to one request. Texts (NUL-terminated) and arrays belong to the engine, until its next step or destruction. */
typedef struct dsinfer_event {
  uint64_t request;
  int32_t kind;   /* DSINFER_EVENT_…; FINISHED or ERROR is a request's last */
  int32_t token;  /* TOKEN: the id chosen; else -1 */
  int32_t reason; /* FINISHED: DSINFER_FINISH_… */
  float logprob;  /* of the token, if logprobs were asked for */
  dsinfer_text text;    /* what became printable: whole UTF-8 characters, may be empty */
  dsinfer_text message; /* ERROR: what went wrong */
  const dsinfer_token_logprob* top; /* best first */
  uint64_t num_top;
  int64_t prompt_tokens, completion_tokens; /* FINISHED */
  double ttft_ms, tokens_per_s;             /* FINISHED */
} dsinfer_event;

/* Leader: does what can be done now, waits at most `timeout` if that is nothing. event_size is sizeof(dsinfer_event); *num_events are
 * written to events[0 … capacity-1], capacity ≥ 1. If *num_events = capacity there may be more: step again, that takes no time.
 * *result: DSINFER_STEP_…; IDLE means that no request is alive. */
DSINFER_CAPI dsinfer_status dsinfer_engine_step(dsinfer_engine* engine, int64_t timeout, dsinfer_event* events, uint64_t event_size,
                                                uint64_t capacity, uint64_t* num_events, int32_t* result);
/* Other ranks: takes part in steps. *result: WORKED; IDLE: none came within `timeout`; SHUTDOWN: the leader is gone. */
DSINFER_CAPI dsinfer_status dsinfer_engine_follow(dsinfer_engine* engine, int64_t timeout, int32_t* result);
/* Leader: the followers come back with SHUTDOWN. */
DSINFER_CAPI dsinfer_status dsinfer_engine_shutdown(dsinfer_engine* engine);
/* Leader: a descriptor that is readable while step has something to do; belongs to the engine. -1 on other ranks. Any thread. */
DSINFER_CAPI int32_t dsinfer_engine_event_fd(const dsinfer_engine* engine);
/* Counters in Prometheus text format; as JSON. Two-call sizing; the counters may grow in between, so leave some room. Any thread. */
DSINFER_CAPI dsinfer_status dsinfer_engine_stats_text(const dsinfer_engine* engine, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_engine_stats_json(const dsinfer_engine* engine, char* buffer, uint64_t capacity, uint64_t* needed);

/* ---- Cluster: the machines, the network between them, what does not fit -------------------------------------------- */

typedef struct dsinfer_cluster dsinfer_cluster; /* immutable; any thread */

/* Where facts of this machine come from. Without privileges, GPUs or verbs: what is absent is absent, never an error. */
typedef struct dsinfer_probe_options {
  uint64_t struct_size;
  const char* root;          /* NULL: "/". Another folder with sys, proc, dev, etc below it also leaves out the live sources */
  const char* nvml_library;  /* NULL: libnvidia-ml.so.1; "": do not ask it */
  const char* verbs_library; /* NULL: libibverbs.so.1; "": do not ask it */
  const char* nccl_library;  /* NULL: libnccl.so.2, looked for but never initialised; "": do not look */
  const char* const* environment; /* "NAME=value"; NULL: the process's own */
  uint64_t num_environment;
  int32_t no_netlink; /* 1: do not ask the kernel for interfaces and routes */
  int32_t reserved;   /* 0 */
} dsinfer_probe_options;
#define DSINFER_PROBE_OPTIONS_INIT {sizeof(dsinfer_probe_options), NULL, NULL, NULL, NULL, NULL, 0, 0, 0}

typedef struct dsinfer_gather_options {
  uint64_t struct_size;
  const dsinfer_probe_options* probe; /* NULL: the usual */
  int64_t reach_timeout;              /* for one pair of nodes; 0: 3000 */
  int32_t no_reach;                   /* 1: do not prove the chosen interfaces pair by pair */
  int32_t reserved;                   /* 0 */
} dsinfer_gather_options;
#define DSINFER_GATHER_OPTIONS_INIT {sizeof(dsinfer_gather_options), NULL, 0, 0, 0}

/* This machine, with the choice of its network. options may be NULL. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_probe(const dsinfer_probe_options* options, dsinfer_cluster** cluster);
/* The machines that captured files describe: a folder, an archive, a file. Files are known by content. NOT_FOUND, IO name the path. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_import(const char* path, dsinfer_cluster** cluster);
/* The machine that the output of tools describes, as pasted. name: of the node; NULL: "pasted". */
DSINFER_CAPI dsinfer_status dsinfer_cluster_import_text(dsinfer_text text, const char* name, dsinfer_cluster** cluster);
/* All machines of the job, chosen and checked; every rank gets the same. options may be NULL. Collective. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_gather(dsinfer_world* world, const dsinfer_gather_options* options, dsinfer_cluster** cluster);
/* From what dsinfer_cluster_to_json gave. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_from_json(dsinfer_text json, dsinfer_cluster** cluster);
/* A new cluster of the same facts, with choice and findings made anew. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_choose_network(const dsinfer_cluster* cluster, dsinfer_cluster** chosen);
DSINFER_CAPI void dsinfer_cluster_destroy(dsinfer_cluster* cluster);

/* Everything as JSON; a tree for a terminal (color: ANSI); for Graphviz; a self-contained picture. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_to_json(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_cluster_text(const dsinfer_cluster* cluster, int32_t color, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_cluster_dot(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed);
DSINFER_CAPI dsinfer_status dsinfer_cluster_svg(const dsinfer_cluster* cluster, char* buffer, uint64_t capacity, uint64_t* needed);
/* Lines for eval of a shell: export NAME='value', each after a comment with its reason. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_environment(const dsinfer_cluster* cluster, int32_t node, char* buffer, uint64_t capacity,
                                                        uint64_t* needed);
/* Sets the same in this process, except what is set already; before MPI and NCCL start, while no other thread reads the environment.
 * *num_set may be NULL. The one call of the library that touches the environment. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_apply_environment(const dsinfer_cluster* cluster, int32_t node, int32_t* num_set);

/* -1 for NULL. */
DSINFER_CAPI int32_t dsinfer_cluster_num_nodes(const dsinfer_cluster* cluster);
/* The node of each rank; none unless it was gathered. Two-call sizing. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_node_of_rank(const dsinfer_cluster* cluster, int32_t* nodes, uint64_t capacity, uint64_t* needed);

enum { DSINFER_TRANSPORT_UNKNOWN = 0, DSINFER_TRANSPORT_IB = 1, DSINFER_TRANSPORT_ROCE = 2, DSINFER_TRANSPORT_SOCKET = 3 };
enum { DSINFER_LINK_LAYER_UNKNOWN = 0, DSINFER_LINK_LAYER_INFINIBAND = 1, DSINFER_LINK_LAYER_ETHERNET = 2 };
/* Set struct_size (the _INIT macro does), the call fills the rest. -1 in a count, flag or index: unknown. Texts belong to the cluster. */
typedef struct dsinfer_node_info {
  uint64_t struct_size;
  const char* name;
  const char* socket_ifname;   /* "": unknown */
  const char* fallback_reason; /* why sockets; "" */
  const char* plugin_fabric;   /* a faster fabric that needs a plug-in of NCCL; "" */
  double gb_per_s_per_gpu;     /* expected between nodes; 0: unknown */
  int64_t memory_bytes;        /* of the host; 0: unknown */
  int64_t gpu_memory_bytes;    /* of the smallest GPU; 0: unknown */
  int32_t gpu_count, nvlink, transport, link_layer, hca_count;
  int32_t gid_index; /* -1: left to NCCL */
  int32_t judged;    /* 1: a rule of thumb had a part in the choice */
  int32_t reserved;
} dsinfer_node_info;
#define DSINFER_NODE_INFO_INIT {sizeof(dsinfer_node_info), NULL, NULL, NULL, NULL, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
DSINFER_CAPI dsinfer_status dsinfer_cluster_get_node(const dsinfer_cluster* cluster, int32_t node, dsinfer_node_info* info);

enum { DSINFER_SEVERITY_INFO = 0, DSINFER_SEVERITY_WARNING = 1, DSINFER_SEVERITY_ERROR = 2 };
/* Set struct_size (the _INIT macro does), the call fills the rest. Texts and arrays belong to the cluster; texts are NUL-terminated. */
typedef struct dsinfer_finding {
  uint64_t struct_size;
  const char* code; /* "hca-names-differ"; stable */
  const char* text;
  const char* advice;
  const dsinfer_text* nodes; /* names */
  uint64_t num_nodes;
  const dsinfer_text* evidence; /* lines */
  uint64_t num_evidence;
  int32_t severity; /* DSINFER_SEVERITY_… */
  int32_t reserved;
} dsinfer_finding;
#define DSINFER_FINDING_INIT {sizeof(dsinfer_finding), NULL, NULL, NULL, NULL, 0, NULL, 0, 0, 0}
/* Findings about one node, or with node = -1 those between nodes. *count is set also to 0. */
DSINFER_CAPI dsinfer_status dsinfer_cluster_num_findings(const dsinfer_cluster* cluster, int32_t node, int32_t* count);
DSINFER_CAPI dsinfer_status dsinfer_cluster_get_finding(const dsinfer_cluster* cluster, int32_t node, int32_t index, dsinfer_finding* finding);

#ifdef __cplusplus
}
#endif
#endif
