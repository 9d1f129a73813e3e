#!/bin/sh
# Copies the bundle that SFBENCH_BUNDLE names into the app, and compiles its packages: run by the app's build phase.
#
# A package and its compiled form hold the same weights: only the compiled one stays, listed in compiled.sha256 with the
# checksum of the manifest it belongs to. SFBENCH_COMPILE=NO leaves the packages, to be compiled on the device.
set -eu
destination="$TARGET_BUILD_DIR/$UNLOCALIZED_RESOURCES_FOLDER_PATH/ModelBundle"
rm -rf "$destination"
if [ -z "${SFBENCH_BUNDLE:-}" ]; then
    echo "note: SFBENCH_BUNDLE is not set: the app will hold no bundle"
    exit 0
fi
if [ ! -f "$SFBENCH_BUNDLE/manifest.json" ]; then
    echo "error: SFBENCH_BUNDLE=$SFBENCH_BUNDLE is no bundle: it has no manifest.json"
    exit 1
fi
ditto "$SFBENCH_BUNDLE" "$destination"
rm -rf "$destination/reports"
if [ "${SFBENCH_COMPILE:-YES}" != YES ]; then
    exit 0
fi

# Compiling takes minutes for a large bundle: what came of this manifest is kept from build to build.
digest=$(shasum -a 256 "$destination/manifest.json" | cut -d ' ' -f 1)
kept="$DERIVED_FILE_DIR/ModelBundle-$digest"
cd "$destination"
if [ ! -f "$kept/compiled.sha256" ]; then
    rm -rf "$DERIVED_FILE_DIR"/ModelBundle-*
    find . -name '*.mlpackage' -type d -prune | LC_ALL=C sort | while read -r package; do
        mkdir -p "$kept/$(dirname "$package")"
        xcrun coremlcompiler compile "$package" "$kept/$(dirname "$package")" \
            --platform ios --deployment-target "$IPHONEOS_DEPLOYMENT_TARGET"
    done
    mkdir -p "$kept"
    cd "$kept"
    # The list is written last: a build that is broken off begins anew.
    find . -type f | sed 's|^\./||' | LC_ALL=C sort | while read -r file; do shasum -a 256 "$file"; done >../compiled.sha256
    { echo "# manifest $digest"; cat ../compiled.sha256; } >../compiled.sha256.new
    mv ../compiled.sha256.new compiled.sha256
    rm ../compiled.sha256
    cd "$destination"
fi
find . -name '*.mlpackage' -type d -prune -exec rm -rf {} +
ditto "$kept" "$destination"
