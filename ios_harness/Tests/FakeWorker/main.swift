import SnapFusionKit
print(Manifest.schemaVersion)
