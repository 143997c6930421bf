"""The messages of TensorFlow Serving's configuration and warm-up files, without its package.

Transcribed from the .proto files of tensorflow/serving 2.20 (session_bundle_config, monitoring_config, predict,
prediction_log and model; what we write and read of them), and compared with the package where it is installed
(tests/test_deployment.py). Unknown fields are errors: a parser that accepts everything would test nothing.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INT64, BOOL, STRING, MESSAGE, BYTES = 3, 8, 9, 11, 12  # FieldDescriptorProto.Type
OPTIONAL, REPEATED = 1, 3

# Message: {field: (number, type, message it holds)}. A list around the type repeats it.
_MESSAGES = {
    "Int64Value": {"value": (1, INT64)},
    "BoolValue": {"value": (1, BOOL)},
    "BatchingParameters": {
        "max_batch_size": (1, "Int64Value"),
        "batch_timeout_micros": (2, "Int64Value"),
        "max_enqueued_batches": (3, "Int64Value"),
        "num_batch_threads": (4, "Int64Value"),
        "allowed_batch_sizes": (6, [INT64]),
        "pad_variable_length_inputs": (7, BOOL),
        "enable_large_batch_splitting": (8, "BoolValue"),
        "max_execution_batch_size": (9, "Int64Value"),
    },
    "PrometheusConfig": {"enable": (1, BOOL), "path": (2, STRING)},
    "MonitoringConfig": {"prometheus_config": (1, "PrometheusConfig")},
    "Latest": {"num_versions": (1, INT64)},
    "All": {},
    "Specific": {"versions": (1, [INT64])},
    "ServableVersionPolicy": {"latest": (100, "Latest"), "all": (101, "All"), "specific": (102, "Specific")},
    "VersionLabel": {"key": (1, STRING), "value": (2, INT64)},  # an entry of a map
    "ModelConfig": {
        "name": (1, STRING),
        "base_path": (2, STRING),
        "model_platform": (4, STRING),
        "model_version_policy": (7, "ServableVersionPolicy"),
        "version_labels": (8, ["VersionLabel"]),
    },
    "ModelConfigList": {"config": (1, ["ModelConfig"])},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
    "ModelSpec": {"name": (1, STRING), "signature_name": (3, STRING)},
    "Input": {"key": (1, STRING), "value": (2, BYTES)},  # an entry of a map; the value is a TensorProto
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, ["Input"])},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
}


def _messages():
    file = descriptor_pb2.FileDescriptorProto(name="serving_messages.proto", package="test", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated, kind = (True, kind[0]) if isinstance(kind, list) else (False, kind)
            entry = message.field.add(name=field, number=number, label=REPEATED if repeated else OPTIONAL)
            if isinstance(kind, str):
                entry.type, entry.type_name = MESSAGE, f".test.{kind}"
            else:
                entry.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))
        for name in ("BatchingParameters", "MonitoringConfig", "ModelServerConfig", "PredictionLog")
    }


MESSAGES = _messages()
