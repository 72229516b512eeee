/** The networks in ONNX Runtime: on WebGPU where the machine has one, else in WebAssembly. */

import * as jspi from "onnxruntime-web/jspi";
import * as wasm from "onnxruntime-web/wasm";
import type { InferenceSession, Tensor } from "onnxruntime-web";

import { HAND_SIDE, PALM_SIDE } from "./finder";
import type { CropRule, Matrix, Point, Point3 } from "./geometry";
import { readFile, type Settings } from "./settings";

export type Device = "webgpu" | "wasm";
type Runtime = typeof wasm;

const BINARIES: Record<Device, string> = { webgpu: "ort-webgpu.wasm.gz", wasm: "ort.wasm.gz" };

const IDENTITY: Matrix = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

/** What a run's own network returns for a crop, as a right hand. */
export interface OwnReading {
  pixels: Point[]; // of the crop
  joints: Point3[]; // mm
  vertices?: Point3[]; // mm
}

/** The networks as functions of crops: RGB, row by row. */
export interface Networks {
  device: Device;
  palm(image: Uint8Array): Promise<{ points: Point[][]; scores: Float32Array }>;
  hand(image: Uint8Array): Promise<{ pixels: Point[]; world: Point3[]; presence: number; right: number }>;
  own?: { rule: CropRule; predict(image: Uint8Array, K: Matrix): Promise<OwnReading> };
}

/** Load the networks on a device, and run each once. */
export async function loadNetworks(settings: Settings, wanted: Device | null): Promise<Networks> {
  const device = wanted ?? ((await hasGpu()) ? "webgpu" : "wasm");
  const names = ["palm", "hand", ...(settings.own ? ["own"] : [])].map((name) => `${name}.onnx.gz`);
  const models = await Promise.all(names.map(readFile));
  try {
    return await start(device, models, settings);
  } catch (error) {
    if (device === "wasm" || wanted) throw error;
    console.info(`WebGPU cannot run the networks (${error}); WebAssembly runs them`);
    return start("wasm", models, settings);
  }
}

/** Whether there is a WebGPU in hardware, and the browser can wait for it inside WebAssembly. */
async function hasGpu(): Promise<boolean> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<{ info?: Record<string, unknown> } | null> } }).gpu;
  if (!gpu || !("Suspending" in WebAssembly)) return false;
  const info = (await gpu.requestAdapter().catch(() => null))?.info;
  return info !== undefined && !info.isFallbackAdapter && info.architecture !== "swiftshader";
}

async function start(device: Device, models: Uint8Array[], settings: Settings): Promise<Networks> {
  const runtime = (device === "webgpu" ? jspi : wasm) as Runtime;
  runtime.env.logLevel = "error";
  runtime.env.wasm.numThreads = 1; // more need headers of the server
  runtime.env.wasm.wasmBinary = (await readFile(BINARIES[device])).buffer;
  const options: InferenceSession.SessionOptions = { executionProviders: [device], logSeverityLevel: 3 };
  const sessions: InferenceSession[] = []; // WebGPU can make only one at a time
  for (const model of models) sessions.push(await runtime.InferenceSession.create(model, options));
  const queue = { last: Promise.resolve() as Promise<unknown> };
  const [palm, hand, own] = sessions.map((session) => asFunction(runtime, session, queue));

  const networks: Networks = {
    device,
    async palm(crop) {
      const { points, scores } = await palm(crop, PALM_SIDE, IDENTITY);
      return { points: rows(points, 18).map((row) => rows(row, 2) as Point[]), scores };
    },
    async hand(crop) {
      const found = await hand(crop, HAND_SIDE, IDENTITY); // placed before the camera later, as the mean of all looks
      const [pixels, world] = [rows(found.keypoints_2d, 2) as Point[], rows(found.world, 3) as Point3[]];
      return { pixels, world, presence: found.presence[0], right: found.right[0] };
    },
  };
  if (settings.own) {
    const rule = settings.own;
    networks.own = {
      rule,
      async predict(crop, K) {
        const found = await own(crop, rule.image_size, K);
        return {
          pixels: rows(found.keypoints_2d, 2) as Point[],
          joints: rows(found.keypoints_3d, 3) as Point3[],
          vertices: found.vertices && (rows(found.vertices, 3) as Point3[]),
        };
      },
    };
  }
  const black = (side: number) => new Uint8Array(side * side * 3); // the first run of a network is slow
  await networks.palm(black(PALM_SIDE));
  await networks.hand(black(HAND_SIDE));
  await networks.own?.predict(black(networks.own.rule.image_size), IDENTITY);
  return networks;
}

/** A network as a function of a crop and its camera. All networks of a queue run one after the other. */
function asFunction(
  runtime: Runtime,
  session: InferenceSession,
  queue: { last: Promise<unknown> },
): (crop: Uint8Array, side: number, K: Matrix) => Promise<Record<string, Float32Array>> {
  const numbers = (data: Float32Array, ...shape: number[]) => new runtime.Tensor("float32", data, [1, ...shape]);
  return (crop, side, K) => {
    const inputs: Record<string, Tensor> = {
      image: new runtime.Tensor("uint8", crop, [1, side, side, 3]),
      K: numbers(Float32Array.from(K.flat()), 3, 3),
      depth: numbers(new Float32Array(side * side), side, side), // a page has no depth
      has_depth: numbers(new Float32Array(1)),
      depth_center: numbers(new Float32Array(1)),
    };
    const feeds = Object.fromEntries(session.inputNames.map((name) => [name, inputs[name]]));
    const next = queue.last.then(async () => {
      const found = Object.entries(await session.run(feeds));
      return Object.fromEntries(found.map(([name, tensor]) => [name, tensor.data as Float32Array]));
    });
    queue.last = next.catch(() => undefined);
    return next;
  };
}

/** Flat numbers as rows of `width`. */
function rows(flat: ArrayLike<number>, width: number): number[][] {
  return Array.from({ length: flat.length / width }, (_, row) =>
    Array.from({ length: width }, (_, column) => flat[row * width + column]),
  );
}
