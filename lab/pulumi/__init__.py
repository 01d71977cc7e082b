"""Stand-ins for the two Pulumi plugins that no reachable registry serves; README.md says how they differ.

Inside this package `import pulumi` is the SDK: imports are absolute, and the executables start without the folder of
their script on the path.
"""

# The version of `pulumi-resource-kubernetes` that the stand-in answers for; the SDK's package asks for it.
PLUGIN_VERSION = "4.34.2"
