# Fuzzing: `make fuzz` and `make fuzz-mutants`, included by ../Makefile.
#
#   RUNS=40000         executions of each target on shared memory; the other two,
#                      which are ten times as fast, do ten times as many
#   SLOW_RUNS, FAST_RUNS   or one of the two by itself
#   PYTHON=…           a Python that `import sharedstate` works in: its library is linked
#   SEED=1             of libFuzzer's dice
#   EVIDENCE=…         where an input is kept that crashes or hangs
#
# libFuzzer is clang's; clang-14 with libclang-rt-14-dev is all it takes.

CLANG     ?= clang-14
RUNS      ?= 40000
SLOW_RUNS ?= $(RUNS)
FAST_RUNS ?= $(shell echo $$(($(RUNS) * 10)))
SEED      ?= 1
EVIDENCE  ?= ../../build/torture/evidence

CODEC  := ../../sharedstate/c
REPLAY := ../../backends/sharedstate_file/c/replay.c
FUZZ   := $(BUILD)/fuzz
# Without -fsanitize-coverage=trace-cmp, which takes half the time: no target
# hides behind a number that has to be guessed.
FUZZ_FLAGS := -std=gnu11 -O2 -g -Wall -Wextra -fsanitize=fuzzer,address,undefined -fno-sanitize-coverage=trace-cmp \
	-fno-sanitize-recover=all
FUZZ_WRAP  := -Wl,--wrap=mmap -Wl,--wrap=munmap -Wl,--wrap=getrandom -pthread -lm
# Only what fuzzes Python objects asks Python where its headers and its library are.
PYTHON_FLAGS = $(shell $(PYTHON) fuzz/python_flags.py)

FUZZ_TARGETS := region table codec frames
CORE_OBJECTS := $(patsubst $(SRC)/%.c,$(FUZZ)/%.o,$(CORE))

.PHONY: fuzz fuzz-mutants $(FUZZ_TARGETS:%=fuzz-%)
fuzz: $(FUZZ_TARGETS:%=fuzz-%)

fuzz-region fuzz-table: FUZZ_RUNS = $(SLOW_RUNS)
fuzz-codec fuzz-frames: FUZZ_RUNS = $(FAST_RUNS)
$(FUZZ_TARGETS:%=fuzz-%): fuzz-%: $(FUZZ)/fuzz_% $(FUZZ)/seeds
	@EVIDENCE="$(EVIDENCE)" SEED=$(SEED) sh fuzz/run.sh $< $(FUZZ)/seeds/$* $(FUZZ_RUNS)

# Each target must find the bug that is planted for it.
fuzz-mutants: $(FUZZ_TARGETS:%=$(FUZZ)/fuzz_%) $(FUZZ)/seeds
	@CLANG="$(CLANG)" FLAGS="$(FUZZ_FLAGS)" WRAP="$(FUZZ_WRAP)" SRC="$(SRC)" CODEC="$(CODEC)" REPLAY="$(REPLAY)" FUZZ="$(FUZZ)" \
		PYTHON_FLAGS='$(PYTHON_FLAGS)' SLOW_RUNS=$(SLOW_RUNS) FAST_RUNS=$(FAST_RUNS) sh fuzz/mutants.sh

$(FUZZ)/seeds: fuzz/seeds.py
	@rm -rf $@ && mkdir -p $(@D) && $(PYTHON) $< $@

$(FUZZ)/%.o: $(SRC)/%.c $(HEADERS)
	@mkdir -p $(@D)
	@echo "  CLANG $@"; $(CLANG) $(FUZZ_FLAGS) -c -o $@ $<

$(FUZZ)/segment.o $(FUZZ)/fuzz_region.o $(FUZZ)/fuzz_table.o: $(FUZZ)/%.o: fuzz/%.c fuzz/segment.h $(HEADERS) $(SRC)/region.c
	@mkdir -p $(@D)
	@echo "  CLANG $@"; $(CLANG) $(FUZZ_FLAGS) -I$(SRC) -c -o $@ $<

# It holds region.c itself.
$(FUZZ)/fuzz_region: $(FUZZ)/fuzz_region.o $(FUZZ)/segment.o $(filter-out $(FUZZ)/region.o,$(CORE_OBJECTS))
	@$(CLANG) $(FUZZ_FLAGS) -o $@ $^ $(FUZZ_WRAP)

$(FUZZ)/fuzz_table: $(FUZZ)/fuzz_table.o $(FUZZ)/segment.o $(CORE_OBJECTS)
	@$(CLANG) $(FUZZ_FLAGS) -o $@ $^ $(FUZZ_WRAP)

$(FUZZ)/fuzz_codec: fuzz/fuzz_codec.c fuzz/embedded.h $(CODEC)/codec.c $(CODEC)/codec.h $(CODEC)/wire.h
	@mkdir -p $(@D)
	@echo "  CLANG $@"; $(CLANG) $(FUZZ_FLAGS) -I$(CODEC) -o $@ $(filter %.c,$^) $(PYTHON_FLAGS)

$(FUZZ)/fuzz_frames: fuzz/fuzz_frames.c fuzz/embedded.h $(REPLAY) $(CODEC)/codec.c $(CODEC)/codec.h $(CODEC)/wire.h
	@mkdir -p $(@D)
	@echo "  CLANG $@"; $(CLANG) $(FUZZ_FLAGS) -I$(CODEC) -o $@ $(filter %.c,$^) $(PYTHON_FLAGS)
