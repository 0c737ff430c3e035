// From samples to tokens: rows of numbers, ids, or tokens as they are.
#include <algorithm>

#include "model.h"

// Makes tokens of samples, and says which of them are valid.
const char *winnow_model::read(const void *x) {
  if (plan.input == TOKENS) {
    turn(static_cast<const float *>(x));
    return nullptr;
  }
  valid_ = known_.as<uint8_t>();
  if (plan.input == IDS) {
    if (const char *why = look_up(static_cast<const int64_t *>(x))) return why;
  } else {
    project(static_cast<const float *>(x));
  }
  locate();
  return nullptr;
}

// Turns [token][channel] into tiles of [channel][token].
void winnow_model::turn(const float *x) {
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *out = stream_.as<float>() + tile.token * plan.dim;
    for (size_t t = 0; t < width; t++)
      for (size_t c = 0; c < plan.dim; c++)
        out[c * width + t] = tile.token + t < count_ ? x[(tile.token + t) * plan.dim + c] : 0.0f;
  });
}

// Multiplies rows of the input, a token each, by the frontend's matrix.
void winnow_model::project(const float *x) {
  const size_t grid = tokens_ - plan.extra, columns = plan.project.columns;
  const Quantization input = plan.project.input();
  const float zero_point = static_cast<float>(input.zero_point);
  constexpr float whole = 12582912.0f;  // 1.5 · 2²³: what is added to it loses its fraction
  uint8_t *known = known_.as<uint8_t>();
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT, left = batch_ * grid - tile.token;
    uint8_t *levels = wide_.as<uint8_t>() + tile.token * columns;
    for (size_t t = 0; t < std::min(width, left); t++) {
      const size_t token = tile.token + t, place = token % grid;
      const float *row = x + token * columns;
      bool some = plan.input == ROWS || place == 0;
      for (size_t c = 0; c < columns; c++) {
        const float y = row[c] * input.inverse_scale + zero_point;
        const float bounded = y > 0.0f ? (y < 255.0f ? y : 255.0f) : 0.0f;
        levels[(c / 4 * width + t) * 4 + c % 4] = static_cast<uint8_t>(bounded + whole - whole);
        some |= row[c] != 0.0f;
      }
      known[token / grid * tokens_ + plan.extra + place] = some;
    }
    kernels.product(plan.project.matrix(), levels, tile.units, 0, plan.project.rows,
                    {Kind::floats, made_.as<float>() + tile.token * plan.dim, width, 0, {1, 0}});
  });
}

const char *winnow_model::look_up(const int64_t *ids) {
  const size_t grid = tokens_ - plan.extra, dim = plan.dim;
  for (size_t i = 0; i < batch_ * grid; i++)
    if (ids[i] < 0 || ids[i] >= int64_t{plan.table.rows}) return "an id is out of bounds";
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT, left = batch_ * grid - tile.token;
    float *out = made_.as<float>() + tile.token * dim;
    for (size_t t = 0; t < std::min(width, left); t++) {
      const size_t token = tile.token + t, place = token % grid, id = static_cast<size_t>(ids[token]);
      const int8_t *row = plan.table.data.data() + id * dim;
      for (size_t c = 0; c < dim; c++) out[c * width + t] = static_cast<float>(row[c]) * plan.table.scale[id];
      known_.as<uint8_t>()[token / grid * tokens_ + plan.extra + place] = id != plan.table.padding || place == 0;
    }
  });
  return nullptr;
}

// Adds positions to tokens of the input, and puts them behind the extra ones.
void winnow_model::locate() {
  const size_t grid = tokens_ - plan.extra, dim = plan.dim;
  auto parts = tiles_of(batch_ * grid);
  each(parts.size(), [&](int item, int) {
    const Tile tile = parts[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *made = made_.as<float>() + tile.token * dim;
    if (plan.positions)
      for (size_t t = 0; t < width; t++) {
        const float *position = plan.position.data() + (tile.token + t) % grid * dim;
        for (size_t c = 0; c < dim; c++) made[c * width + t] += position[c];
      }
    if (plan.position_norm)
      kernels.normalize(made, static_cast<int>(dim), tile.units, plan.located.gain.data(), plan.located.shift.data(),
                        plan.eps, true, nullptr, {1, 0});
  });
  if (!plan.extra) {  // tiles are the same
    memcpy(stream_.as<void>(), made_.as<void>(), (count_ + UNIT - 1) / UNIT * UNIT * dim * sizeof(float));
    return;
  }
  each(tiles_.size(), [&](int item, int) {
    const Tile tile = tiles_[static_cast<size_t>(item)];
    const size_t width = static_cast<size_t>(tile.units) * UNIT;
    float *out = stream_.as<float>() + tile.token * dim;
    for (size_t t = 0; t < width && tile.token + t < count_; t++) {
      const size_t sample = (tile.token + t) / tokens_, place = (tile.token + t) % tokens_;
      if (place < plan.extra) {
        known_.as<uint8_t>()[tile.token + t] = 1;
        for (size_t c = 0; c < dim; c++) out[c * width + t] = plan.front[place * dim + c];
        continue;
      }
      const size_t token = sample * grid + place - plan.extra;
      const Tile &from = parts[token / TILE];
      const float *made = made_.as<float>() + from.token * dim + token % TILE;
      for (size_t c = 0; c < dim; c++) out[c * width + t] = made[c * static_cast<size_t>(from.units) * UNIT];
    }
  });
}
