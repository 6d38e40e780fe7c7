// Compiles against the generated Go code and prints one request as hexadecimal
// digits; the same bytes must come out in every language.
package main

import (
	"encoding/hex"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	coretexv1 "coretex.dev/gen/coretex/v1"
)

// Every service has a client under its name.
type clients struct {
	access coretexv1.AccessServiceClient
	job    coretexv1.JobServiceClient
	system coretexv1.SystemServiceClient
	worker coretexv1.WorkerServiceClient
}

func connect(connection *grpc.ClientConn) clients {
	return clients{
		access: coretexv1.NewAccessServiceClient(connection),
		job:    coretexv1.NewJobServiceClient(connection),
		system: coretexv1.NewSystemServiceClient(connection),
		worker: coretexv1.NewWorkerServiceClient(connection),
	}
}

func request() *coretexv1.SubmitJobRequest {
	return &coretexv1.SubmitJobRequest{
		Topic:          "job.echo",
		Input:          &coretexv1.Payload{Data: &coretexv1.Payload_Raw{Raw: []byte("hello")}},
		Priority:       coretexv1.JobPriority_JOB_PRIORITY_CRITICAL,
		IdempotencyKey: "smoke",
		Wait:           durationpb.New(2 * time.Second),
		MaxRedispatch:  proto.Int32(0),
	}
}

func main() {
	// Nothing is sent: a connection is made at the first call.
	connection, err := grpc.NewClient(
		"127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	if made := connect(connection); made.job == nil || made.worker == nil {
		log.Fatal("a client is missing")
	}
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(request())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(hex.EncodeToString(encoded))
}
