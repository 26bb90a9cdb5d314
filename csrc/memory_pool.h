// Memory of NumPy's large arrays, kept for the next ones (NEP 49). A new array of 60 MB comes from
// the kernel as pages that it must clear first: a fifth of the time of training a small network.
//
// One reserved range of addresses, of which arrays take the lowest gap that fits: a network asks
// for the same sizes in the same order at every step, so that they come to lie where they lay
// before, in little more than what is in use at once. Blocks kept by their size needed as much as
// each size ever did, and what was over was given back and cleared anew in every step: 71 of
// klein4's 371 ms.
#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace pyconv::binding {

class MemoryPool {
 public:
  // As NumPy's PyDataMem_Handler, which its arrays keep alive in a capsule and free themselves by.
  struct Handler {
    char name[127] = "pyconv";
    std::uint8_t version = 1;
    void* pool;
    void* (*malloc)(void*, std::size_t);
    void* (*calloc)(void*, std::size_t, std::size_t);
    void* (*realloc)(void*, void*, std::size_t);
    void (*free)(void*, void*, std::size_t);
  };

  MemoryPool() {
    reserve();
    handler_.pool = this;
    handler_.malloc = [](void* pool, std::size_t size) {
      return static_cast<MemoryPool*>(pool)->make(size);
    };
    // Zeros are the kernel's work and come from there.
    handler_.calloc = [](void*, std::size_t count, std::size_t size) {
      return std::calloc(count, size);
    };
    handler_.realloc = [](void* pool, void* p, std::size_t size) {
      return static_cast<MemoryPool*>(pool)->resize(p, size);
    };
    handler_.free = [](void* pool, void* p, std::size_t) {
      static_cast<MemoryPool*>(pool)->give_back(p);
    };
  }
  MemoryPool(const MemoryPool&) = delete;
  ~MemoryPool() {
    if (base_) munmap(base_, reserved_);
  }

  Handler* handler() { return &handler_; }

  // Give the kernel back what no array uses, now and from now on, until memory is asked for again.
  void trim() {
    const std::lock_guard lock(mutex_);
    keeps_ = false;
    for (const auto& [at, size] : gaps_) release(at, size);
  }
  std::size_t idle_bytes() {
    const std::lock_guard lock(mutex_);
    std::size_t sum = 0;
    for (const auto& [at, size] : gaps_) sum += keeps_ ? size : 0;
    return sum;
  }

 private:
  using Ranges = std::map<std::size_t, std::size_t>;  // sizes by place, in bytes from base_

  static constexpr std::size_t grain = 1 << 14;  // whole pages on every system
  static constexpr std::size_t least = 1 << 20;  // smaller ones malloc() keeps by itself

  static std::size_t rounded(std::size_t size) { return (size + grain - 1) / grain * grain; }

  bool holds(const void* p) const {
    const auto at = reinterpret_cast<std::uintptr_t>(p);
    const auto first = reinterpret_cast<std::uintptr_t>(base_);
    return base_ && at >= first && at < first + reserved_;
  }

  // As many addresses as the machine has memory, or what is left of a limit on them.
  void reserve() {
    const std::size_t pages = std::size_t(sysconf(_SC_PHYS_PAGES));
    reserved_ = rounded(pages * std::size_t(sysconf(_SC_PAGESIZE)));
    for (; reserved_ >= 64 * least; reserved_ = rounded(reserved_ / 4)) {
      void* const made = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (made == MAP_FAILED) continue;
      base_ = static_cast<char*>(made);
#ifdef MADV_HUGEPAGE
      madvise(base_, reserved_, MADV_HUGEPAGE);  // as NumPy does; 512 times fewer page faults
#endif
      return;
    }
    reserved_ = 0;
  }

  void* make(std::size_t size) {
    if (size < least) return std::malloc(size);
    try {
      return take(size);
    } catch (const std::bad_alloc&) {
      return nullptr;
    }
  }

  void* take(std::size_t asked) {
    const std::lock_guard lock(mutex_);
    keeps_ = true;
    if (asked > reserved_) return std::malloc(asked);
    const std::size_t size = rounded(asked);
    auto gap = gaps_.begin();
    while (gap != gaps_.end() && gap->second < size) ++gap;
    if (gap == gaps_.end()) {  // behind all others, together with a gap that is there
      if (gap != gaps_.begin() && reaches_end(std::prev(gap))) --gap;
      const std::size_t at = gap == gaps_.end() ? end_ : gap->first;
      if (size > reserved_ - at) return std::malloc(asked);
      if (gap == gaps_.end()) gap = gaps_.emplace(at, size).first;
      gap->second = size;
      end_ = at + size;
    }
    const std::size_t at = gap->first, left = gap->second - size;
    if (left) gaps_.emplace(at + size, left);
    auto block = gaps_.extract(gap);
    block.mapped() = size;
    used_.insert(std::move(block));
    return base_ + at;
  }

  bool reaches_end(Ranges::const_iterator gap) const { return gap->first + gap->second == end_; }

  void give_back(void* p) {
    if (!holds(p)) return std::free(p);
    const std::lock_guard lock(mutex_);
    auto block = used_.extract(std::size_t(static_cast<char*>(p) - base_));
    const std::size_t at = block.key();
    std::size_t& size = block.mapped();
    if (!keeps_) release(at, size);
    auto next = gaps_.lower_bound(at);
    if (next != gaps_.end() && at + size == next->first) {
      size += next->second;
      next = gaps_.erase(next);
    }
    const auto before = next == gaps_.begin() ? gaps_.end() : std::prev(next);
    if (before != gaps_.end() && before->first + before->second == at)
      before->second += size;
    else
      gaps_.insert(std::move(block));
  }

  void* resize(void* p, std::size_t size) {
    if (!holds(p)) return std::realloc(p, size);
    std::size_t before;
    {
      const std::lock_guard lock(mutex_);
      before = used_.at(std::size_t(static_cast<char*>(p) - base_));
    }
    void* const made = make(size);
    if (!made) return nullptr;
    std::memcpy(made, p, before < size ? before : size);
    give_back(p);
    return made;
  }

  void release(std::size_t at, std::size_t size) { madvise(base_ + at, size, MADV_DONTNEED); }

  Handler handler_;
  std::mutex mutex_;
  char* base_ = nullptr;
  std::size_t reserved_ = 0, end_ = 0;  // no array lies, or lay, at or behind `end_`
  bool keeps_ = false;
  Ranges used_, gaps_;  // gaps are never neighbours
};

}  // namespace pyconv::binding
