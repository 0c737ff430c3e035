// An int8 Transformer encoder with block-sparse weights, in one call. Plain C: whoever can load a shared
// library can use it. Nothing is kept of what is passed in. A function that fails says why in `error`.
#pragma once
#include <stdint.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

typedef struct winnow_model winnow_model;

// The instruction sets that this machine runs, best first, separated by spaces.
const char *winnow_instructions(void);

// Reads a model from a plan (plan.h says what it is); every size and index in it is checked.
// instructions: one of the above; empty: the best. threads: at least 1.
winnow_model *winnow_open(const uint8_t *plan, uint64_t size, const char *instructions, int32_t threads, char *error,
                          uint64_t error_size);
void winnow_close(winnow_model *);

// What a model takes and gives.
typedef struct {
  int64_t dim, tokens, extra, classes, input, columns;  // as in plan.h; columns: of an input's row
} winnow_sizes;
void winnow_measure(const winnow_model *, winnow_sizes *);

// Runs `batch` samples of `tokens` tokens, extra ones included. x is, by what the model takes,
//   tokens: float [batch, tokens, dim], with uint8 valid [batch, tokens]
//   rows or frames: float [batch, tokens - extra, columns]; ids: int64 [batch, tokens - extra]
// and x_size its bytes. out receives float [batch, classes], or [batch, tokens, dim] from a model without a
// head, and pooled, if it is not null, what the head read: [batch, dim]. Gives 0, or 1 if it fails.
int32_t winnow_run(winnow_model *, const void *x, uint64_t x_size, const uint8_t *valid, int64_t batch, int64_t tokens,
                   float *out, float *pooled, char *error, uint64_t error_size);

// Multiplies levels [tokens, columns] by the one matrix of a plan: int32 out [tokens, rows], with the bias
// and the zero point's share. seconds: receives the processor's time of each of `repeats` products.
int32_t winnow_product(const uint8_t *plan, uint64_t size, const char *instructions, const uint8_t *x, int64_t tokens,
                       int32_t *out, uint64_t out_size, int32_t repeats, double *seconds, char *error,
                       uint64_t error_size);

// Measures how many products of bytes a second one core can do at most; 0 if there is no such set.
double winnow_peak(const char *instructions);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
