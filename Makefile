# make demo   from nothing to a picture: environment, export, verify, generate, latency table
# make test   everything a change must pass: lint, types, tests, Swift tests where there is a toolchain
# make fuzz   changed files of every format, read as commands read them; FUZZ_SECONDS for each
# make ios-test DEVICE="iPhone 14 Pro" BUNDLE=...   measure a bundle on a connected iPhone (on a Mac with Xcode)
# make house  draw docs/house.svg, which room imports which, from the code
# make newest-coremltools   what sfmobile uses of coremltools, held against the newest release of the package index
# make clean  remove what all of these made

.DEFAULT_GOAL := help
.PHONY: help demo test lint types pytest fuzz swift house ios-test newest-coremltools environment clean

# The newest supported Python found; choose another with `make PYTHON=...`.
PYTHON ?= $(shell for python in python3.12 python3.13 python3.11 python3.10 python3; do \
	if "$$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; \
	then echo "$$python"; break; fi; done)
VENV := .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

MODEL := models/glyph
OUT := out
BUNDLE := $(OUT)/glyph
PROMPTS ?= "a red apple" "a yellow star on a blue background" "a smiling cat face" "a penguin, 3d style" \
	"a red heart" "a cactus" "a strawberry" "a tiger face" "a robot" "a frog" "an octopus" "a pizza"
SEED ?= 0
# A file to a worker: what its tests share is made once.
PYTEST_FLAGS ?= -n auto --dist loadfile

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

environment: $(INSTALLED)

# Made again only when pyproject.toml changes. The stamp is written last: an interrupted set-up starts over.
$(INSTALLED): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.10 to 3.13 found; install one, or name it with 'make PYTHON=/path/to/python'." >&2; exit 3; fi
	@if [ ! -x $(RUN)/python ]; then echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV) || { \
		echo "error: $(PYTHON) can't create environments; on Debian and Ubuntu install python3-venv." >&2; \
		rm -rf $(VENV); exit 3; }; fi
	@echo "Installing sfmobile and its dependencies into $(VENV) (a few minutes the first time)"
	@$(RUN)/python -m pip install --quiet --editable '.[all,dev]'
	@touch $@

demo: environment
	$(RUN)/sfmobile export $(MODEL) -o $(BUNDLE) --with encoder
	$(RUN)/sfmobile verify $(BUNDLE) --source $(MODEL)
	$(RUN)/sfmobile generate $(BUNDLE) $(PROMPTS) --seed $(SEED) -o $(OUT)/demo.png --sheet $(OUT)/demo-sheet.png
	$(RUN)/sfmobile generate $(BUNDLE) "a red heart" "an orange" --image $(OUT)/demo-01.png --strength 0.7 -o $(OUT)/from-picture.png
	$(RUN)/python -c 'from PIL import Image; Image.linear_gradient("L").resize((128, 128)).point(lambda y: 255 * (y > 127)).save("$(OUT)/lower-half.png")'
	$(RUN)/sfmobile generate $(BUNDLE) "a yellow star" "a pizza" "a cactus" --image $(OUT)/demo-01.png --mask $(OUT)/lower-half.png -o $(OUT)/repainted.png
	$(RUN)/sfmobile generate $(BUNDLE) "a red apple" --compare-samplers ddim,euler,euler-ancestral,dpm++2m,unipc --compare-steps 2,4,8 -o $(OUT)/samplers.png
	$(RUN)/sfmobile bench $(BUNDLE)

test: lint types pytest swift

lint: environment
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: environment
	$(RUN)/mypy

# One thread a worker: the workers share the cores already.
pytest: environment
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest $(PYTEST_FLAGS)

# Changed files of every format, FUZZ_SECONDS each; what is read wrongly is kept in tests/fuzz/crashes, where the suite
# reads it. Another SEED gives other cases.
FUZZ_SECONDS ?= 120
fuzz: environment
	OMP_NUM_THREADS=1 $(RUN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --seed $(SEED) $(FORMATS)

# Pre-releases too. Only coremltools is new; in front of the environment's packages, which stay as they are.
newest-coremltools: environment
	@rm -rf $(OUT)/newest-coremltools
	$(RUN)/python -m pip install --quiet --pre --upgrade --no-deps --target $(OUT)/newest-coremltools coremltools
	@export PYTHONPATH="$(abspath $(OUT)/newest-coremltools)" OMP_NUM_THREADS=1; \
	$(RUN)/python -c 'from importlib.metadata import version; print("coremltools", version("coremltools"))' && \
	$(RUN)/python -m pytest $(PYTEST_FLAGS) tests/export/test_coremltools_names.py tests/export/test_lowering.py \
		tests/export/test_lookup_tables.py tests/export/test_package.py

# The Swift libraries, then the command-line tool beside sfmobile on the same bundles. Warnings are errors where CI says so.
STRICT_SWIFT := $(if $(CI),-Xswiftc -warnings-as-errors)
swift: environment
	@if .ci/swift-toolchain find >/dev/null 2>&1; then \
		.ci/swift-toolchain run swift test --disable-swift-testing $(STRICT_SWIFT) && \
		.ci/swift-toolchain run swift build --package-path ios_harness && \
		SFMOBILE_SWIFT_BUILD=1 OMP_NUM_THREADS=1 $(RUN)/python -m pytest tests/ios_harness; \
	elif [ -n "$(CI)" ]; then \
		echo "error: no Swift 6 toolchain here; '.ci/swift-toolchain install' makes one on Debian." >&2; exit 3; \
	else \
		echo "Swift tests SKIPPED: no Swift 6 toolchain here; '.ci/swift-toolchain install' makes one on Debian."; \
	fi

# The Performance tests on a connected iPhone, and their report as a table. DEVICE is a model, a phone's name or id=UDID;
# DEVELOPMENT_TEAM signs the app. The bundle is checked first: its packages reach the phone compiled, without checksums.
ios-test: environment
	@if [ -z "$(DEVICE)" ]; then echo 'usage: make ios-test DEVICE="iPhone 14 Pro" BUNDLE=path/to/bundle' >&2; exit 2; fi
	@if ! command -v xcodebuild >/dev/null; then echo "error: this needs a Mac with Xcode 16 or later." >&2; exit 3; fi
	@$(RUN)/python -c 'import sys; sys.tracebacklimit = 0; from sfmobile.bundle.directory import Bundle; Bundle.open(sys.argv[1])' "$(BUNDLE)"
	@mkdir -p $(OUT) && rm -rf $(OUT)/ios.xcresult
	destination=$$($(RUN)/python ios_harness/find_device.py "$(DEVICE)") || exit $$?; \
	xcodebuild test -project ios_harness/SFBench.xcodeproj -scheme Performance -testPlan Performance \
		-destination "platform=iOS,$$destination" -resultBundlePath $(OUT)/ios.xcresult -allowProvisioningUpdates \
		SFBENCH_BUNDLE="$(abspath $(BUNDLE))" $(if $(DEVELOPMENT_TEAM),DEVELOPMENT_TEAM="$(DEVELOPMENT_TEAM)") \
		$(if $(CI),SWIFT_TREAT_WARNINGS_AS_ERRORS=YES); \
	status=$$?; $(RUN)/sfmobile report import $(OUT)/ios.xcresult -o $(OUT)/ios-bench.json && exit $$status

house: environment
	$(RUN)/python docs/house.py

clean:
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis .build ios_harness/.build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
