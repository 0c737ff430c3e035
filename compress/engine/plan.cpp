#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace {

constexpr uint32_t MOST = 1u << 16;  // of any size: 255 · 128 · 65536 is the largest sum that fits into int32

// Takes the input's zero point out of the bias, once: sum of w (x - z) = sum of w x - z · sum of w.
void fold(Weights &w) {
  std::vector<int64_t> total(w.rows, 0);
  const uint32_t high = w.block ? w.block : 4, bands = w.rows / high;
  for (uint32_t band = 0; band < bands; band++) {
    const size_t from = w.block ? w.start[band] : size_t{band} * (w.columns / 4);
    const size_t to = w.block ? w.start[band + 1] : from + w.columns / 4;
    for (size_t k = from; k < to; k++)
      for (uint32_t i = 0; i < high * 4; i++) total[band * high + i / 4] += w.data[k * high * 4 + i];
  }
  for (uint32_t row = 0; row < w.rows; row++)
    w.bias[row] = static_cast<int32_t>(static_cast<uint32_t>(w.bias[row] - total[row] * w.input_zero));
}

bool is_light(const int8_t *w, size_t count) {
  for (size_t i = 0; i < count; i += 2)
    if (std::abs(w[i]) + std::abs(w[i + 1]) > 128) return false;
  return true;
}

}  // namespace

// Puts the rows of blocks of a panel in the order of their number of blocks.
void Weights::sort() {
  const uint32_t bands = rows / block, high = PANEL / block;
  order.resize(bands);
  std::iota(order.begin(), order.end(), 0);
  const auto fewer = [&](uint32_t a, uint32_t b) { return start[a + 1] - start[a] < start[b + 1] - start[b]; };
  for (uint32_t i = 0; i < bands; i += high)
    std::stable_sort(order.begin() + i, order.begin() + std::min(i + high, bands), fewer);
}

// Makes weights light: a block that is not becomes two of its halves, if that promises to save time.
void Weights::lighten() {
  const size_t bytes = size_t{block} * 4;
  if (!block) {
    light = is_light(data.data(), data.size());
    return;
  }
  std::vector<bool> heavy(index.size());
  for (size_t k = 0; k < index.size(); k++) heavy[k] = !is_light(data.data() + k * bytes, bytes);
  const size_t many = static_cast<size_t>(std::count(heavy.begin(), heavy.end(), true));
  // Instructions that a product of one row takes: 3 if it is light, else 4 and its share of 2 for the column.
  light = 3 * (index.size() + many) <= (4 * block + 2) * index.size() / block && index.size() + many <= UINT32_MAX;
  if (!light || !many) return;
  Weights halved;
  for (size_t band = 0, k = 0; band + 1 < start.size(); band++) {
    halved.start.push_back(static_cast<uint32_t>(halved.index.size()));
    for (; k < start[band + 1]; k++) {
      for (int half = 0; half < (heavy[k] ? 2 : 1); half++) {
        halved.index.push_back(index[k]);
        for (size_t i = k * bytes; i < (k + 1) * bytes; i++) {
          const int first = heavy[k] ? data[i] / 2 : 0;  // the other half is the rest
          halved.data.push_back(static_cast<int8_t>(half || !heavy[k] ? data[i] - first : first));
        }
      }
    }
  }
  halved.start.push_back(static_cast<uint32_t>(halved.index.size()));
  start.swap(halved.start), index.swap(halved.index), data.swap(halved.data);
  sort();
}

Weights Reader::weights() {
  Weights w;
  w.rows = number(4, MOST, "a matrix has too few or too many rows");
  w.columns = number(4, MOST, "a matrix has too few or too many columns");
  w.block = number(0, 4, "blocks are of 1, 2 or 4 rows");
  require(w.rows % 4 == 0 && w.columns % 4 == 0, "rows and columns are multiples of 4");
  require(w.block != 3, "blocks are of 1, 2 or 4 rows");
  w.input_scale = scale();
  w.input_zero = number(0, 255, "a zero point is out of bounds");
  reals(w.scale, w.rows);
  array(w.bias, w.rows);
  if (failed()) return w;
  if (!w.block) {
    array(w.data, uint64_t{w.rows} * w.columns);
  } else {
    const uint32_t bands = w.rows / w.block;
    const uint32_t count = number(0, UINT32_MAX, "");
    array(w.start, uint64_t{bands} + 1);
    array(w.index, count);
    array(w.data, uint64_t{count} * w.block * 4);
    if (failed()) return w;
    require(w.start[0] == 0 && w.start[bands] == count, "starts do not cover the blocks");
    for (uint32_t i = 0; i < bands; i++) require(w.start[i] <= w.start[i + 1], "starts go back");
    for (uint16_t k : w.index) require(k < w.columns / 4, "an index is out of bounds");
    if (failed()) return w;
    w.sort();
  }
  if (!failed()) fold(w);
  return w;
}

// Reads how samples become tokens.
void Reader::input(Plan &p) {
  if (p.input == ROWS || p.input == FRAMES) {
    p.project = weights();
    require(p.project.rows == p.dim, "the input has another width than the model");
  } else if (p.input == IDS) {
    p.table.rows = number(1, UINT32_MAX, "a table is empty");
    p.table.padding = number(0, UINT32_MAX, "");
    reals(p.table.scale, p.table.rows);
    array(p.table.data, uint64_t{p.table.rows} * p.dim);
  }
  if (p.positions) reals(p.position, uint64_t{p.tokens - p.extra} * p.dim);
  if (p.position_norm) p.located = norm(p.dim);
  if (p.input != TOKENS) reals(p.front, uint64_t{p.extra} * p.dim);
}

Plan Reader::plan() {
  Plan p{};
  uint32_t magic = 0;
  take(&magic, 4);
  require(magic == 0x32504e57, "it is no plan");
  const char *why = "a size is out of bounds";
  p.dim = number(4, MOST, why);
  p.heads = number(1, MOST, why);
  p.layers = number(1, 4096, why);
  p.tokens = number(1, MOST, why);
  p.extra = number(0, p.tokens - 1, why);
  p.classes = number(0, MOST, why);
  p.pre_norm = number(0, 1, why);
  p.input_norm = number(0, 1, why);
  p.output_norm = number(0, 2, why);
  p.integer = number(0, 1, why);
  p.biases = number(0, p.layers, why);
  p.input = number(TOKENS, IDS, why);
  p.positions = number(0, p.input == TOKENS ? 0 : 1, why);
  p.position_norm = number(0, p.input == TOKENS ? 0 : 1, why);
  p.eps = real(why);
  require(p.dim % 4 == 0 && p.dim % p.heads == 0 && p.dim / p.heads % 4 == 0, "heads are of 4, 8, 12 … channels");
  require(p.biases <= 1 || p.biases == p.layers, "there is a bias for none, for all or for each of the layers");
  require(p.eps >= 0, "eps is negative");
  input(p);
  if (p.input_norm) p.first = norm(p.dim);
  const char *wrong = "a matrix of a layer has another size than the model";
  for (uint32_t i = 0; i < p.layers && !failed(); i++) {
    Layer layer;
    const auto sized = [&](uint32_t rows, uint32_t columns) {
      Weights w = weights();
      require(w.rows == rows && w.columns == columns, wrong);
      return w;
    };
    layer.query = weights();
    const uint32_t rows = layer.query.rows;
    require(layer.query.columns == p.dim && rows <= p.dim && rows % p.width() == 0, wrong);
    layer.heads = rows / p.width();
    layer.key = sized(rows, p.dim);
    layer.value = sized(rows, p.dim);
    layer.out = sized(p.dim, rows);
    layer.norm1 = norm(p.dim);
    layer.fc1 = weights();
    require(layer.fc1.columns == p.dim, wrong);
    layer.fc2 = sized(p.dim, layer.fc1.rows);
    layer.norm2 = norm(p.dim);
    if (p.integer)
      for (Levels *levels : {&layer.query_levels, &layer.key_levels, &layer.value_levels}) {
        levels->scale = scale();
        levels->zero_point = number(0, 255, "a zero point is out of bounds");
      }
    const auto same = [](const Weights &a, const Weights &b) {
      return a.input_scale == b.input_scale && a.input_zero == b.input_zero;
    };
    require(same(layer.query, layer.key) && same(layer.query, layer.value), "query, key and value read other levels");
    p.layer.push_back(std::move(layer));
  }
  const uint64_t tokens = p.tokens, stride = p.bias_stride();
  for (uint32_t i = 0; i < p.biases && !failed(); i++) {
    const uint64_t heads = p.layer[i].heads;
    for (const Layer &layer : p.layer)
      require(p.biases != 1 || layer.heads == heads, "one bias for all layers, and they have not the same heads");
    std::vector<float> given;
    reals(given, heads * tokens * tokens);
    if (failed()) break;
    std::vector<float> turned(heads * tokens * stride);
    for (uint64_t h = 0; h < heads; h++)
      for (uint64_t q = 0; q < tokens; q++)
        for (uint64_t k = 0; k < tokens; k++)
          turned[(h * tokens + k) * stride + q] = given[(h * tokens + q) * tokens + k];
    p.bias.push_back(std::move(turned));
  }
  if (p.output_norm) p.last = norm(p.dim);
  if (p.classes) {
    p.head = weights();
    require(p.head.columns == p.dim && p.head.rows >= p.classes && p.head.rows < p.classes + 4,
            "the head has another size than the model");
  }
  require(finished(), "it goes on behind its end");
  return p;
}
