"""The messages and methods of the protocols, as tables of our own.

Names, numbers and types are those of the Open Inference Protocol (`grpc_predict_v2.proto`) with Triton's extensions, of
`grpc.health.v1` and of `grpc.reflection`. Of Triton's model configuration there are the parts that this server fills.
A line is a message: its name, then its fields as `name=number type`; `*` repeats, `<K,V>` is a map, `@` names a oneof.
Read by `messages.py`, which makes descriptors of it.
"""

from __future__ import annotations

from collections.abc import Mapping

MODEL_CONFIG = """
enum DataType: TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 \
TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16
ModelTensorReshape: shape=1 int64*
enum ModelInput.Format: FORMAT_NONE FORMAT_NHWC FORMAT_NCHW
ModelInput: name=1 string, data_type=2 DataType, format=3 ModelInput.Format, dims=4 int64*, \
reshape=5 ModelTensorReshape, is_shape_tensor=6 bool, allow_ragged_batch=7 bool, optional=8 bool, \
is_non_linear_format_io=9 bool
ModelOutput: name=1 string, data_type=2 DataType, dims=3 int64*, reshape=5 ModelTensorReshape, \
label_filename=4 string, is_shape_tensor=6 bool, is_non_linear_format_io=7 bool
enum ModelInstanceGroup.Kind: KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL
ModelInstanceGroup: name=1 string, kind=4 ModelInstanceGroup.Kind, count=2 int32, gpus=3 int32*, profile=5 string*, \
passive=7 bool, host_policy=9 string
ModelVersionPolicy.Latest: num_versions=1 uint32
ModelVersionPolicy.All:
ModelVersionPolicy.Specific: versions=1 int64*
ModelVersionPolicy: latest=1 ModelVersionPolicy.Latest @policy_choice, all=2 ModelVersionPolicy.All @policy_choice, \
specific=3 ModelVersionPolicy.Specific @policy_choice
ModelOptimizationPolicy.PinnedMemoryBuffer: enable=1 bool
enum ModelOptimizationPolicy.ModelPriority: PRIORITY_DEFAULT PRIORITY_MAX PRIORITY_MIN
ModelOptimizationPolicy: priority=2 ModelOptimizationPolicy.ModelPriority, \
input_pinned_memory=5 ModelOptimizationPolicy.PinnedMemoryBuffer, \
output_pinned_memory=6 ModelOptimizationPolicy.PinnedMemoryBuffer, gather_kernel_buffer_threshold=7 uint32, \
eager_batching=8 bool
enum ModelQueuePolicy.TimeoutAction: REJECT DELAY
ModelQueuePolicy: timeout_action=1 ModelQueuePolicy.TimeoutAction, default_timeout_microseconds=2 uint64, \
allow_timeout_override=3 bool, max_queue_size=4 uint32
ModelDynamicBatching: preferred_batch_size=1 int32*, max_queue_delay_microseconds=2 uint64, preserve_ordering=3 bool, \
priority_levels=4 uint64, default_priority_level=5 uint64, default_queue_policy=6 ModelQueuePolicy, \
priority_queue_policy=7 <uint64,ModelQueuePolicy>
ModelSequenceBatching: max_sequence_idle_microseconds=1 uint64
ModelEnsembling.Step: model_name=1 string, model_version=2 int64, input_map=3 <string,string>, \
output_map=4 <string,string>, model_namespace=5 string
ModelEnsembling: step=1 ModelEnsembling.Step*, max_inflight_requests=2 uint32
ModelParameter: string_value=1 string
ModelTransactionPolicy: decoupled=1 bool
ModelResponseCache: enable=1 bool
ModelConfig: name=1 string, platform=2 string, backend=17 string, runtime=25 string, \
version_policy=3 ModelVersionPolicy, max_batch_size=4 int32, input=5 ModelInput*, output=6 ModelOutput*, \
optimization=12 ModelOptimizationPolicy, dynamic_batching=11 ModelDynamicBatching @scheduling_choice, \
sequence_batching=13 ModelSequenceBatching @scheduling_choice, \
ensemble_scheduling=15 ModelEnsembling @scheduling_choice, instance_group=7 ModelInstanceGroup*, \
default_model_filename=8 string, cc_model_filenames=9 <string,string>, metric_tags=10 <string,string>, \
parameters=14 <string,ModelParameter>, model_transaction_policy=19 ModelTransactionPolicy, \
response_cache=24 ModelResponseCache
"""

INFERENCE = """
ServerLiveRequest:
ServerLiveResponse: live=1 bool
ServerReadyRequest:
ServerReadyResponse: ready=1 bool
ModelReadyRequest: name=1 string, version=2 string
ModelReadyResponse: ready=1 bool
ServerMetadataRequest:
ServerMetadataResponse: name=1 string, version=2 string, extensions=3 string*
ModelMetadataRequest: name=1 string, version=2 string
ModelMetadataResponse.TensorMetadata: name=1 string, datatype=2 string, shape=3 int64*
ModelMetadataResponse: name=1 string, versions=2 string*, platform=3 string, \
inputs=4 ModelMetadataResponse.TensorMetadata*, outputs=5 ModelMetadataResponse.TensorMetadata*, \
properties=6 <string,string>
InferParameter: bool_param=1 bool @parameter_choice, int64_param=2 int64 @parameter_choice, \
string_param=3 string @parameter_choice, double_param=4 double @parameter_choice, \
uint64_param=5 uint64 @parameter_choice
InferTensorContents: bool_contents=1 bool*, int_contents=2 int32*, int64_contents=3 int64*, uint_contents=4 uint32*, \
uint64_contents=5 uint64*, fp32_contents=6 float*, fp64_contents=7 double*, bytes_contents=8 bytes*
ModelInferRequest.InferInputTensor: name=1 string, datatype=2 string, shape=3 int64*, \
parameters=4 <string,InferParameter>, contents=5 InferTensorContents
ModelInferRequest.InferRequestedOutputTensor: name=1 string, parameters=2 <string,InferParameter>
ModelInferRequest: model_name=1 string, model_version=2 string, id=3 string, parameters=4 <string,InferParameter>, \
inputs=5 ModelInferRequest.InferInputTensor*, outputs=6 ModelInferRequest.InferRequestedOutputTensor*, \
raw_input_contents=7 bytes*
ModelInferResponse.InferOutputTensor: name=1 string, datatype=2 string, shape=3 int64*, \
parameters=4 <string,InferParameter>, contents=5 InferTensorContents
ModelInferResponse: model_name=1 string, model_version=2 string, id=3 string, parameters=4 <string,InferParameter>, \
outputs=5 ModelInferResponse.InferOutputTensor*, raw_output_contents=6 bytes*
ModelStreamInferResponse: error_message=1 string, infer_response=2 ModelInferResponse
ModelConfigRequest: name=1 string, version=2 string
ModelConfigResponse: config=1 ModelConfig
ModelStatisticsRequest: name=1 string, version=2 string
StatisticDuration: count=1 uint64, ns=2 uint64
InferStatistics: success=1 StatisticDuration, fail=2 StatisticDuration, queue=3 StatisticDuration, \
compute_input=4 StatisticDuration, compute_infer=5 StatisticDuration, compute_output=6 StatisticDuration, \
cache_hit=7 StatisticDuration, cache_miss=8 StatisticDuration
InferResponseStatistics: compute_infer=1 StatisticDuration, compute_output=2 StatisticDuration, \
success=3 StatisticDuration, fail=4 StatisticDuration, empty_response=5 StatisticDuration, cancel=6 StatisticDuration
InferBatchStatistics: batch_size=1 uint64, compute_input=2 StatisticDuration, compute_infer=3 StatisticDuration, \
compute_output=4 StatisticDuration
MemoryUsage: type=1 string, id=2 int64, byte_size=3 uint64
ModelStatistics: name=1 string, version=2 string, last_inference=3 uint64, inference_count=4 uint64, \
execution_count=5 uint64, inference_stats=6 InferStatistics, batch_stats=7 InferBatchStatistics*, \
memory_usage=8 MemoryUsage*, response_stats=9 <string,InferResponseStatistics>
ModelStatisticsResponse: model_stats=1 ModelStatistics*
ModelRepositoryParameter: bool_param=1 bool @parameter_choice, int64_param=2 int64 @parameter_choice, \
string_param=3 string @parameter_choice, bytes_param=4 bytes @parameter_choice
RepositoryIndexRequest: repository_name=1 string, ready=2 bool
RepositoryIndexResponse.ModelIndex: name=1 string, version=2 string, state=3 string, reason=4 string
RepositoryIndexResponse: models=1 RepositoryIndexResponse.ModelIndex*
RepositoryModelLoadRequest: repository_name=1 string, model_name=2 string, \
parameters=3 <string,ModelRepositoryParameter>
RepositoryModelLoadResponse:
RepositoryModelUnloadRequest: repository_name=1 string, model_name=2 string, \
parameters=3 <string,ModelRepositoryParameter>
RepositoryModelUnloadResponse:
SystemSharedMemoryStatusRequest: name=1 string
SystemSharedMemoryStatusResponse.RegionStatus: name=1 string, key=2 string, offset=3 uint64, byte_size=4 uint64
SystemSharedMemoryStatusResponse: regions=1 <string,SystemSharedMemoryStatusResponse.RegionStatus>
SystemSharedMemoryRegisterRequest: name=1 string, key=2 string, offset=3 uint64, byte_size=4 uint64
SystemSharedMemoryRegisterResponse:
SystemSharedMemoryUnregisterRequest: name=1 string
SystemSharedMemoryUnregisterResponse:
CudaSharedMemoryStatusRequest: name=1 string
CudaSharedMemoryStatusResponse.RegionStatus: name=1 string, device_id=2 uint64, byte_size=3 uint64
CudaSharedMemoryStatusResponse: regions=1 <string,CudaSharedMemoryStatusResponse.RegionStatus>
CudaSharedMemoryRegisterRequest: name=1 string, raw_handle=2 bytes, device_id=3 int64, byte_size=4 uint64
CudaSharedMemoryRegisterResponse:
CudaSharedMemoryUnregisterRequest: name=1 string
CudaSharedMemoryUnregisterResponse:
TraceSettingRequest.SettingValue: value=1 string*
TraceSettingRequest: settings=1 <string,TraceSettingRequest.SettingValue>, model_name=2 string
TraceSettingResponse.SettingValue: value=1 string*
TraceSettingResponse: settings=1 <string,TraceSettingResponse.SettingValue>
LogSettingsRequest.SettingValue: bool_param=1 bool @parameter_choice, uint32_param=2 uint32 @parameter_choice, \
string_param=3 string @parameter_choice
LogSettingsRequest: settings=1 <string,LogSettingsRequest.SettingValue>
LogSettingsResponse.SettingValue: bool_param=1 bool @parameter_choice, uint32_param=2 uint32 @parameter_choice, \
string_param=3 string @parameter_choice
LogSettingsResponse: settings=1 <string,LogSettingsResponse.SettingValue>
"""

HEALTH = """
HealthCheckRequest: service=1 string
enum HealthCheckResponse.ServingStatus: UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN
HealthCheckResponse: status=1 HealthCheckResponse.ServingStatus
"""

REFLECTION = """
ServerReflectionRequest: host=1 string, file_by_filename=3 string @message_request, \
file_containing_symbol=4 string @message_request, file_containing_extension=5 ExtensionRequest @message_request, \
all_extension_numbers_of_type=6 string @message_request, list_services=7 string @message_request
ExtensionRequest: containing_type=1 string, extension_number=2 int32
ServerReflectionResponse: valid_host=1 string, original_request=2 ServerReflectionRequest, \
file_descriptor_response=4 FileDescriptorResponse @message_response, \
all_extension_numbers_response=5 ExtensionNumberResponse @message_response, \
list_services_response=6 ListServiceResponse @message_response, error_response=7 ErrorResponse @message_response
FileDescriptorResponse: file_descriptor_proto=1 bytes*
ExtensionNumberResponse: base_type_name=1 string, extension_number=2 int32*
ListServiceResponse: service=1 ServiceResponse*
ServiceResponse: name=1 string
ErrorResponse: error_code=1 int32, error_message=2 string
"""

# Method → (request, response, the caller streams, the server streams).
Methods = Mapping[str, tuple[str, str, bool, bool]]


def unary(*names: str) -> dict[str, tuple[str, str, bool, bool]]:
    """Methods whose messages are named after them."""
    return {name: (f"{name}Request", f"{name}Response", False, False) for name in names}


INFERENCE_METHODS: Methods = {
    **unary("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
    "ModelStreamInfer": ("ModelInferRequest", "ModelStreamInferResponse", True, True),
    **unary("ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    **unary("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    **unary("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    **unary("TraceSetting", "LogSettings"),
}
HEALTH_METHODS: Methods = {
    "Check": ("HealthCheckRequest", "HealthCheckResponse", False, False),
    "Watch": ("HealthCheckRequest", "HealthCheckResponse", False, True),
}
REFLECTION_METHODS: Methods = {
    "ServerReflectionInfo": ("ServerReflectionRequest", "ServerReflectionResponse", True, True)
}
