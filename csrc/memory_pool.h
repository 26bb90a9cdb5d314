// Memory of NumPy's large arrays, kept for the next ones (NEP 49). A new array of 60 MB comes from
// the kernel as 15,000 pages that it must clear first: a fifth of the time of training a small
// network. A network asks for the same sizes in every step, so the blocks of the last one serve.
//
// Blocks never outgrow what was in use at once: where a new one would, those that wait longest go.
#pragma once
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <cstdlib>
#include <list>
#include <mutex>

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
    handler_.pool = this;
    handler_.malloc = [](void* pool, std::size_t size) {
      return size < least ? std::malloc(size) : static_cast<MemoryPool*>(pool)->take(size);
    };
    // Zeros are the kernel's work and come from there.
    handler_.calloc = [](void*, std::size_t count, std::size_t size) {
      const bool large = count * size >= least;  // NumPy has checked that it does not overflow
      return large ? std::calloc(block(count * size), 1) : std::calloc(count, size);
    };
    handler_.realloc = [](void*, void* p, std::size_t size) {
      return std::realloc(p, size < least ? size : block(size));
    };
    handler_.free = [](void* pool, void* p, std::size_t size) {
      // A block of ours begins a page, one of calloc's and malloc's 16 bytes behind.
      const bool ours = size >= least && reinterpret_cast<std::uintptr_t>(p) % page == 0;
      if (p && ours) return static_cast<MemoryPool*>(pool)->give_back(p, block(size));
      std::free(p);
    };
  }
  MemoryPool(const MemoryPool&) = delete;
  ~MemoryPool() { trim(); }

  Handler* handler() { return &handler_; }

  // Give the kernel back what no array uses, now and from now on, until memory is asked for again.
  void trim() {
    const std::lock_guard lock(mutex_);
    most_ = 0;
    keep_bounded();
  }
  std::size_t idle_bytes() {
    const std::lock_guard lock(mutex_);
    return waiting_;
  }

 private:
  struct Block {
    void* memory;
    std::size_t size;
  };

  static constexpr std::size_t page = 4096;
  static constexpr std::size_t least = 1 << 20;  // smaller ones malloc() keeps by itself

  // Sizes in steps of an eighth or less, so that similar arrays can share.
  static std::size_t block(std::size_t size) {
    std::size_t step = least / 8;
    while (step * 16 < size) step *= 2;
    return (size + step - 1) / step * step;
  }

  void* take(std::size_t asked) {
    const std::size_t size = block(asked);
    {
      const std::lock_guard lock(mutex_);
      for (auto at = idle_.rbegin(); at != idle_.rend(); ++at) {
        if (at->size != size) continue;
        void* found = at->memory;
        idle_.erase(std::next(at).base());
        waiting_ -= size;
        use(size);
        return found;
      }
    }
    // On a cache line: malloc's large blocks begin 16 bytes behind one, so that every vector would
    // lie in two.
    void* made = nullptr;
    if (posix_memalign(&made, page, size)) return nullptr;
#ifdef MADV_HUGEPAGE
    madvise(made, size, MADV_HUGEPAGE);  // as NumPy does; 512 times fewer page faults
#endif
    const std::lock_guard lock(mutex_);
    use(size);
    keep_bounded();
    return made;
  }

  void give_back(void* memory, std::size_t size) {
    const std::lock_guard lock(mutex_);
    live_ -= live_ < size ? live_ : size;
    idle_.push_back({memory, size});
    waiting_ += size;
    keep_bounded();
  }

  void use(std::size_t size) {
    live_ += size;
    if (most_ < live_) most_ = live_;
  }

  void keep_bounded() {
    while (!idle_.empty() && live_ + waiting_ > most_) {
      waiting_ -= idle_.front().size;
      std::free(idle_.front().memory);
      idle_.pop_front();
    }
  }

  Handler handler_;
  std::mutex mutex_;
  std::list<Block> idle_;  // the oldest first
  std::size_t live_ = 0, waiting_ = 0, most_ = 0;
};

}  // namespace pyconv::binding
