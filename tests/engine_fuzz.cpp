// Opens a plan, and thousands of broken copies of it, and runs what opens. Built with sanitizers by
// test_engine_robustness: it ends at the first byte that is read or written out of bounds.
//
// engine_fuzz PLAN MUTATIONS SEED: prints how many copies opened, and the instruction sets tried.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "engine.h"

using Bytes = std::vector<uint8_t>;

// Runs some samples of some lengths, with one and with two threads.
static bool run(const Bytes &plan, const std::string &instructions, int threads) {
  char error[256] = "";
  // In memory of exactly its size, where a byte behind its end would be noticed.
  Bytes copy(plan);
  copy.shrink_to_fit();
  winnow_model *model = winnow_open(copy.data(), copy.size(), instructions.c_str(), threads, error, sizeof error);
  if (!model) {
    if (!*error) abort();  // a refusal has its reason
    return false;
  }
  winnow_sizes sizes;
  winnow_measure(model, &sizes);
  const int64_t most = sizes.tokens < 20 ? sizes.tokens : 20;
  for (int64_t batch : {1, 5})
    for (int64_t count : {most, int64_t{3}}) {
      const int64_t grid = count > sizes.extra ? count - sizes.extra : 0;
      const int64_t numbers = sizes.input == 0 ? count * sizes.dim : sizes.input == 3 ? grid * 2 : grid * sizes.columns;
      std::vector<float> x(static_cast<size_t>(batch * numbers));
      for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i % 17) - 8.0f;
      if (sizes.input == 3)  // ids, of which some are out of bounds in the end
        for (size_t i = 0; i < x.size() / 2; i++) {
          const int64_t id = static_cast<int64_t>(i % 13);
          memcpy(&x[2 * i], &id, sizeof id);
        }
      std::vector<uint8_t> valid(static_cast<size_t>(batch * count));
      for (size_t i = 0; i < valid.size(); i++) valid[i] = i % 3 != 1;
      std::vector<float> out(static_cast<size_t>(batch * (sizes.classes ? sizes.classes : count * sizes.dim)));
      std::vector<float> pooled(static_cast<size_t>(batch * sizes.dim));
      winnow_run(model, x.data(), x.size() * sizeof(float), valid.data(), batch, count, out.data(), pooled.data(), error,
                 sizeof error);
    }
  winnow_close(model);
  return true;
}

static Bytes broken(const Bytes &plan, std::mt19937_64 &random) {
  static const uint32_t interesting[] = {0, 1, 2, 3, 4, 5, 15, 16, 255, 256, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
                                         0xffffffff, 0x7f800000, 0x7fc00000, 0x00000001};
  Bytes copy(plan);
  const size_t changes = 1 + random() % 4;
  for (size_t i = 0; i < changes && copy.size() > 4; i++) {
    // Half of the changes hit the sizes at the beginning.
    const size_t at = random() % (random() % 2 ? copy.size() : (copy.size() < 96 ? copy.size() : 96));
    switch (random() % 6) {
      case 0:
        copy[at] ^= static_cast<uint8_t>(1u << random() % 8);
        break;
      case 1:
        copy[at] = static_cast<uint8_t>(random());
        break;
      case 2:
      case 3:
        if (at / 4 * 4 + 4 <= copy.size())
          memcpy(copy.data() + at / 4 * 4, &interesting[random() % (sizeof interesting / 4)], 4);
        break;
      case 4:
        copy.resize(random() % 2 ? at : copy.size() - random() % 5 % copy.size());
        break;
      default:
        copy.insert(copy.begin() + static_cast<long>(at), random() % 9, static_cast<uint8_t>(random()));
    }
  }
  return copy;
}

int main(int, char **words) {
  std::ifstream file(words[1], std::ios::binary);
  const Bytes plan((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::string> sets;
  std::istringstream names(winnow_instructions());
  for (std::string name; names >> name;) sets.push_back(name);
  for (const std::string &name : sets)
    for (int threads : {1, 2})
      if (!run(plan, name, threads)) return 1;
  std::mt19937_64 random(std::stoull(words[3]));
  int opened = 0;
  const int mutations = std::stoi(words[2]);
  for (int i = 0; i < mutations; i++) opened += run(broken(plan, random), sets[static_cast<size_t>(i) % sets.size()], 1);
  printf("%d of %d opened; %s\n", opened, mutations, winnow_instructions());
}
