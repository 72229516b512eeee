/** The networks in ONNX Runtime: on WebGPU where the machine has one, else in WebAssembly. */

import * as jspi from "onnxruntime-web/jspi";
import * as wasm from "onnxruntime-web/wasm";
import type { InferenceSession, Tensor } from "onnxruntime-web";

import type { CropRule, Matrix, Point, Point3 } from "./geometry";
import { readFile, type Settings } from "./settings";

export type Device = "webgpu" | "wasm";
type Runtime = typeof wasm;
type Run = (feeds: Record<string, Tensor>) => Promise<Record<string, Float32Array>>;

const BINARIES: Record<Device, string> = { webgpu: "ort-webgpu.wasm.gz", wasm: "ort.wasm.gz" };

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
  const [palm, hand, own] = await Promise.all(models.map((model) => session(runtime, model, options)));
  const image = (side: number, data: Uint8Array) => new runtime.Tensor("uint8", data, [1, side, side, 3]);
  const numbers = (data: number[] | Float32Array, ...shape: number[]) =>
    new runtime.Tensor("float32", Float32Array.from(data), [1, ...shape]);

  const networks: Networks = {
    device,
    async palm(crop) {
      const { points, scores } = await palm.run({ image: image(192, crop) });
      const flat = rows(points, 18);
      return { points: flat.map((row) => rows(row, 2) as Point[]), scores };
    },
    async hand(crop) {
      const found = await hand.run({ image: image(224, crop) });
      const [pixels, world] = [rows(found.keypoints_2d, 2) as Point[], rows(found.world, 3) as Point3[]];
      return { pixels, world, presence: found.presence[0], right: found.right[0] };
    },
  };
  if (settings.own) {
    const rule = settings.own;
    const side = rule.image_size;
    networks.own = {
      rule,
      async predict(crop, K) {
        const feeds: Record<string, Tensor> = {
          image: image(side, crop),
          K: numbers(K.flat(), 3, 3),
          depth: numbers(new Float32Array(side * side), side, side),
          has_depth: numbers([0]),
          depth_center: numbers([0]),
        };
        const found = await own.run(Object.fromEntries(own.inputs.map((name) => [name, feeds[name]])));
        return {
          pixels: rows(found.keypoints_2d, 2) as Point[],
          joints: rows(found.keypoints_3d, 3) as Point3[],
          vertices: found.vertices && (rows(found.vertices, 3) as Point3[]),
        };
      },
    };
  }
  await networks.palm(new Uint8Array(192 * 192 * 3)); // the first run of a network is slow
  await networks.hand(new Uint8Array(224 * 224 * 3));
  await networks.own?.predict(new Uint8Array(networks.own.rule.image_size ** 2 * 3), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]);
  return networks;
}

/** A network as a function of its inputs. Its runs are made one after the other. */
async function session(
  runtime: Runtime,
  model: Uint8Array,
  options: InferenceSession.SessionOptions,
): Promise<{ inputs: readonly string[]; run: Run }> {
  const created = await runtime.InferenceSession.create(model, options);
  let last: Promise<unknown> = Promise.resolve();
  const run: Run = (feeds) => {
    const next = last.then(async () => {
      const found = await created.run(feeds);
      return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data as Float32Array]));
    });
    last = next.catch(() => undefined);
    return next;
  };
  return { inputs: created.inputNames, run };
}

/** Flat numbers as rows of `width`. */
function rows(flat: ArrayLike<number>, width: number): number[][] {
  return Array.from({ length: flat.length / width }, (_, row) =>
    Array.from({ length: width }, (_, column) => flat[row * width + column]),
  );
}
