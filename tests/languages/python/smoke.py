"""Compiles against the generated Python code and prints one request as hexadecimal
digits; the same bytes must come out in every language."""

import importlib
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration

from coretex.v1.access_service_pb2_grpc import AccessServiceStub
from coretex.v1.job_pb2 import JOB_PRIORITY_CRITICAL
from coretex.v1.job_service_pb2_grpc import JobServiceStub
from coretex.v1.job_submit_pb2 import SubmitJobRequest, SubmitJobResponse
from coretex.v1.payload_pb2 import Payload
from coretex.v1.system_service_pb2_grpc import SystemServiceStub
from coretex.v1.worker_service_pb2_grpc import WorkerServiceStub


def request() -> SubmitJobRequest:
    return SubmitJobRequest(
        topic="job.echo",
        input=Payload(raw=b"hello"),
        priority=JOB_PRIORITY_CRITICAL,
        idempotency_key="smoke",
        wait=Duration(seconds=2),
        max_redispatch=0,
    )


def submit(stub: JobServiceStub) -> SubmitJobResponse:
    """Only type-checked: there is no server here."""
    return stub.SubmitJob(request(), timeout=5.0)


def import_everything() -> None:
    """The stubs are checked without running what they describe; this runs it."""
    for file in sorted(Path(__file__).parent.glob("coretex/v1/*_pb2*.py")):
        importlib.import_module(f"coretex.v1.{file.stem}")


def main() -> None:
    import_everything()
    # Nothing is sent: a connection is made at the first call.
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        AccessServiceStub(channel)
        JobServiceStub(channel)
        SystemServiceStub(channel)
        WorkerServiceStub(channel)
    print(request().SerializeToString(deterministic=True).hex())


if __name__ == "__main__":
    main()
