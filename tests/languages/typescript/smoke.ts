// Compiles against the generated TypeScript code and prints one request as
// hexadecimal digits; the same bytes must come out in every language.
import { create, toBinary } from "@bufbuild/protobuf";
import type { MessageShape } from "@bufbuild/protobuf";

import { AccessService } from "./coretex/v1/access_service_pb.js";
import { JobPriority } from "./coretex/v1/job_pb.js";
import { JobService } from "./coretex/v1/job_service_pb.js";
import { SubmitJobRequestSchema } from "./coretex/v1/job_submit_pb.js";
import { SystemService } from "./coretex/v1/system_service_pb.js";
import { WorkerService } from "./coretex/v1/worker_service_pb.js";

// The client reaches messages through the service, not by their names.
type Request = MessageShape<typeof JobService.method.submitJob.input>;

function request(): Request {
  return create(SubmitJobRequestSchema, {
    topic: "job.echo",
    input: { data: { case: "raw", value: new TextEncoder().encode("hello") } },
    priority: JobPriority.CRITICAL,
    idempotencyKey: "smoke",
    wait: { seconds: 2n },
    maxRedispatch: 0,
  });
}

function hexadecimal(encoded: Uint8Array): string {
  return Array.from(encoded, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

for (const service of [AccessService, JobService, SystemService, WorkerService]) {
  if (service.methods.length === 0) {
    throw new Error(`${service.typeName} has no methods`);
  }
}
console.log(hexadecimal(toBinary(SubmitJobRequestSchema, request())));
