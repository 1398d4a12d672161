"""What the Python client does, against a running cluster with a pod `client`.

Every step asserts; the last line says that all have been done.
"""

import sys

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config(config_file=sys.argv[1])
core = client.CoreV1Api()

# Lists in pages.
everything = core.list_config_map_for_all_namespaces()
page = core.list_config_map_for_all_namespaces(limit=1)
seen = [item.metadata.uid for item in page.items]
while page.metadata._continue:
    page = core.list_config_map_for_all_namespaces(limit=1, _continue=page.metadata._continue)
    seen += [item.metadata.uid for item in page.items]
assert sorted(seen) == sorted(item.metadata.uid for item in everything.items), seen

# A watch from a list's revision delivers each change once.
names = "default"
start = core.list_namespaced_config_map(names).metadata.resource_version
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="python"), data={"a": "1"})
core.create_namespaced_config_map(names, body)
core.patch_namespaced_config_map("python", names, {"data": {"b": "2"}})
core.delete_namespaced_config_map("python", names)
events = []
for event in watch.Watch().stream(
    core.list_namespaced_config_map, names, resource_version=start, timeout_seconds=60
):
    if event["object"].metadata.name == "python":
        events.append(event["type"])
    if len(events) == 3:
        break
assert events == ["ADDED", "MODIFIED", "DELETED"], events

# Server-side apply, with a conflict between two managers.
applied = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "applied"},
    "data": {"k": "one"},
}
maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
made = maps.server_side_apply(namespace=names, body=applied, field_manager="first")
assert made.metadata.managedFields[0].operation == "Apply"
applied["data"]["k"] = "two"
try:
    maps.server_side_apply(namespace=names, body=applied, field_manager="second")
    raise AssertionError("the conflict was not told")
except ApiException as error:
    assert error.status == 409, error
forced = maps.server_side_apply(
    namespace=names, body=applied, field_manager="second", force_conflicts=True
)
assert forced.data.k == "two"
core.delete_namespaced_config_map("applied", names)

# Exec, with output on both streams and an exit code.
session = stream(
    core.connect_get_namespaced_pod_exec,
    "client",
    names,
    command=["/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    stdout=True,
    stderr=True,
    stdin=False,
    tty=False,
    _preload_content=False,
)
session.run_forever(timeout=60)
assert session.read_stdout().strip() == "out"
assert session.read_stderr().strip() == "err"
assert session.returncode == 3, session.returncode

print("all done")
