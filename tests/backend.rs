//! The contract of `Backend` on every OpenCL device: errors by name, arguments by name, time,
//! binaries, and what may be dropped when.

use std::sync::Arc;

use ellesmere::backend::{
    Argument, Backend, Buffer, CopyRegion, Launch, PART_ALIGNMENT, Program, ProgramSource, Value,
};
use ellesmere::hardware::detect;
use ellesmere::{DType, Error};

fn backends() -> Vec<Arc<dyn Backend>> {
    let entries = detect().entries;
    let usable = entries.iter().filter(|entry| entry.id != "cpu" && entry.unusable().is_none());
    usable.map(|entry| entry.open().unwrap()).collect()
}

/// y[i] = bias ? x[i] + bias[i] : x[i] + offset, and it takes `turns` for it.
const ADD: &str = "
__kernel void add(__global const float *x, __global const float *bias, __global float *y,
                  const uint turns, const int offset, const float scale)
{
    const size_t i = get_global_id(0);
    float sum = 0.0f;
    for (uint turn = 0; turn < turns; turn++)
        sum += scale * x[i];
    y[i] = sum + (bias ? bias[i] : (float)offset);
}
";

fn source(kernel: &'static str, source: &'static str) -> ProgramSource {
    ProgramSource { kernel, dtype: DType::F32, parameters: vec![("UNUSED", 1)], source }
}

fn upload(backend: &dyn Backend, values: &[f32]) -> Buffer {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let buffer = backend.allocate(bytes.len() as u64).unwrap();
    backend.write(&buffer, 0, &bytes).unwrap();
    buffer
}

fn download(backend: &dyn Backend, buffer: &Buffer) -> Vec<f32> {
    let mut bytes = vec![0; buffer.bytes() as usize];
    backend.read(buffer, 0, &mut bytes).unwrap();
    bytes.chunks(4).map(|chunk| f32::from_ne_bytes(chunk.try_into().unwrap())).collect()
}

fn arguments<'a>(x: &'a Buffer, bias: Option<&'a Buffer>, y: &'a Buffer) -> [Argument<'a>; 6] {
    [
        Argument { name: "x", value: x.into() },
        Argument { name: "bias", value: bias.into() },
        Argument { name: "y", value: Value::Output(y) },
        Argument { name: "turns", value: 1u32.into() },
        Argument { name: "offset", value: (-3i32).into() },
        Argument { name: "scale", value: 0.5f32.into() },
    ]
}

fn add(backend: &dyn Backend, program: &Program, bias: Option<&Buffer>) -> Vec<f32> {
    let x = upload(backend, &[1.0, 2.0, 3.0, 4.0]);
    let y = upload(backend, &[f32::NAN; 4]);
    let arguments = arguments(&x, bias, &y);
    let launch = Launch { arguments: &arguments, groups: [2, 1, 1], local: [2, 1, 1] };
    backend.launch(program, &launch).unwrap();
    // The driver keeps it until the launch is done.
    drop(x);
    download(backend, &y)
}

#[test]
fn arguments_of_every_type_arrive_and_an_absent_buffer_is_null() {
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        assert_eq!(add(&*backend, &program, None), [-2.5, -2.0, -1.5, -1.0]);
        let bias = upload(&*backend, &[10.0, 20.0, 30.0, 40.0]);
        assert_eq!(add(&*backend, &program, Some(&bias)), [10.5, 21.0, 31.5, 42.0]);
    }
}

#[test]
fn a_program_from_its_binary_is_the_same_program() {
    for backend in backends() {
        let source = source("add", ADD);
        let binary = backend.binary(&backend.build(&source).unwrap());
        let Some(binary) = binary else {
            eprintln!("{} gives no binary", backend.info().platform);
            continue;
        };
        let program = backend.load(&source, &binary).unwrap();
        assert_eq!(add(&*backend, &program, None), [-2.5, -2.0, -1.5, -1.0]);
    }
}

#[test]
fn what_is_no_binary_is_refused_without_harm() {
    // rusticl 22.3 ends the process: what is cached on disk is checked before it is loaded.
    let careful = |backend: &Arc<dyn Backend>| !backend.info().platform.starts_with("rusticl");
    for backend in backends().into_iter().filter(careful) {
        let source = source("add", ADD);
        assert!(backend.load(&source, b"no binary at all").is_err());
        let program = backend.build(&source).unwrap();
        assert_eq!(add(&*backend, &program, None), [-2.5, -2.0, -1.5, -1.0]);
    }
}

#[test]
fn a_kernel_that_does_not_compile_comes_with_the_compilers_words() {
    for backend in backends() {
        let error = backend.build(&source("add", "__kernel void add() { no_such_word(); }"));
        let Err(Error::Build { kernel, log, .. }) = error else { panic!("{error:?}") };
        assert_eq!(kernel, "add");
        assert!(log.contains("no_such_word"), "{}: {log}", backend.info().platform);
        assert!(backend.build(&source("other_name", ADD)).is_err(), "no kernel of that name");
    }
}

#[test]
fn a_failed_launch_names_the_call_and_the_code_and_the_next_one_works() {
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        let (x, y) = (upload(&*backend, &[0.0; 4]), upload(&*backend, &[0.0; 4]));
        let arguments = arguments(&x, None, &y);
        let too_many = [backend.info().max_work_group * 2, 1, 1];
        let launch = Launch { arguments: &arguments, groups: [1, 1, 1], local: too_many };
        let Err(error) = backend.launch(&program, &launch) else { panic!("it was launched") };
        let error = error.to_string();
        assert!(error.starts_with("clEnqueueNDRangeKernel failed: CL_INVALID_WORK_"), "{error}");
        assert_eq!(add(&*backend, &program, None), [-2.5, -2.0, -1.5, -1.0]);
    }
}

#[test]
fn an_allocation_over_the_limit_is_out_of_memory() {
    for backend in backends() {
        // Eight times the host's memory: some drivers take more than they say.
        let result = backend.allocate(1 << 50);
        let Err(Error::OutOfMemory { requested_bytes, .. }) = result else {
            panic!("{}: {result:?}", backend.info().platform)
        };
        assert_eq!(requested_bytes, 1 << 50);
        let program = backend.build(&source("add", ADD)).unwrap();
        assert_eq!(add(&*backend, &program, None), [-2.5, -2.0, -1.5, -1.0]);
    }
}

#[test]
fn arguments_in_another_order_are_found_by_their_names() {
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        let (x, y) = (upload(&*backend, &[0.0; 4]), upload(&*backend, &[0.0; 4]));
        let mut arguments = arguments(&x, None, &y);
        arguments.swap(0, 2);
        let launch = Launch { arguments: &arguments, groups: [2, 1, 1], local: [2, 1, 1] };
        let launched = std::panic::AssertUnwindSafe(|| drop(backend.launch(&program, &launch)));
        let panicked = std::panic::catch_unwind(launched).is_err();
        assert!(panicked, "{} does not tell names", backend.info().platform);
    }
}

#[test]
fn a_timer_measures_the_device_where_the_driver_can() {
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        let (x, y) = (upload(&*backend, &[0.0; 256]), upload(&*backend, &[0.0; 256]));
        let mut arguments = arguments(&x, None, &y);
        arguments[3].value = 100_000u32.into();
        let launch = Launch { arguments: &arguments, groups: [4, 1, 1], local: [64, 1, 1] };
        let timer = backend.launch(&program, &launch).unwrap();
        backend.finish().unwrap();
        match timer.elapsed() {
            Some(elapsed) => assert!(elapsed.as_nanos() > 0, "{elapsed:?}"),
            None => eprintln!("{} does not tell the time", backend.info().platform),
        }
    }
}

#[test]
fn copies_and_offsets_move_the_bytes_that_they_name() {
    for backend in backends() {
        let x = upload(&*backend, &[1.0, 2.0, 3.0, 4.0]);
        let y = upload(&*backend, &[0.0; 4]);
        let region = CopyRegion {
            source: &x,
            source_offset: 4,
            target: &y,
            target_offset: 8,
            bytes: 8,
            rows: 1,
            source_pitch: 0,
            target_pitch: 0,
        };
        backend.copy(&region).unwrap();
        backend.write(&y, 0, &7.0f32.to_ne_bytes()).unwrap();
        assert_eq!(download(&*backend, &y), [7.0, 0.0, 2.0, 3.0]);
        let mut last = [0; 4];
        backend.read(&y, 12, &mut last).unwrap();
        assert_eq!(f32::from_ne_bytes(last), 3.0);
        backend.read(&y, 16, &mut []).unwrap();
    }
}

#[test]
fn rows_are_copied_between_matrices_of_different_widths() {
    for backend in backends() {
        // The last two columns of 3 x 4 to the middle of 3 x 5.
        let x = upload(&*backend, &(0..12).map(|value| value as f32).collect::<Vec<_>>());
        let y = upload(&*backend, &[-1.0; 15]);
        let region = CopyRegion {
            source: &x,
            source_offset: 8,
            target: &y,
            target_offset: 4,
            bytes: 8,
            rows: 3,
            source_pitch: 16,
            target_pitch: 20,
        };
        backend.copy(&region).unwrap();
        let expected = [2.0, 3.0, 6.0, 7.0, 10.0, 11.0];
        let copied = download(&*backend, &y);
        for (row, expected) in copied.chunks(5).zip(expected.chunks(2)) {
            assert_eq!(row, [-1.0, expected[0], expected[1], -1.0, -1.0]);
        }
        backend.copy(&CopyRegion { rows: 0, ..region }).unwrap();
        assert_eq!(download(&*backend, &y), copied, "no rows");
    }
}

#[test]
fn threads_can_share_a_program() {
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (backend, program) = (&*backend, &program);
                scope.spawn(move || {
                    let bias = upload(backend, &[thread as f32; 4]);
                    for _ in 0..50 {
                        let expected = [0.5, 1.0, 1.5, 2.0].map(|value| value + thread as f32);
                        assert_eq!(add(backend, program, Some(&bias)), expected);
                    }
                });
            }
        });
    }
}

#[test]
fn a_part_shares_the_memory_of_its_whole_and_keeps_it() {
    let devices = detect().entries.into_iter().filter(|entry| entry.unusable().is_none());
    for backend in devices.map(|entry| entry.open().unwrap()) {
        let name = &backend.info().platform;
        let start = PART_ALIGNMENT;
        let whole = Arc::new(backend.allocate(3 * start).unwrap());
        backend.write(&whole, 0, &vec![1; 3 * start as usize]).unwrap();
        let part = backend.part(&whole, start, 100).unwrap();
        assert_eq!((part.bytes(), part.part_of().unwrap().1), (100, start));
        backend.write(&part, 0, &[2; 100]).unwrap();
        let mut seen = [0; 102];
        backend.read(&whole, start - 1, &mut seen).unwrap();
        assert_eq!((seen[0], seen[101]), (1, 1), "on {name}, outside");
        assert_eq!(seen[1..101], [2; 100], "on {name}, inside");
        drop(whole);
        let mut seen = [0; 100];
        backend.read(&part, 0, &mut seen).unwrap();
        assert_eq!(seen, [2; 100], "on {name}, when the whole is no one else's");
    }
}

#[test]
fn a_transfer_waits_for_what_came_before_and_is_seen_by_what_comes_after() {
    const COUNT: usize = 1 << 20;
    for backend in backends() {
        let program = backend.build(&source("add", ADD)).unwrap();
        let add = |x: &Buffer, y: &Buffer, turns: u32| {
            let mut arguments = arguments(x, None, y);
            arguments[3].value = turns.into();
            let groups = [COUNT / 16, 1, 1];
            let launch = Launch { arguments: &arguments, groups, local: [16, 1, 1] };
            backend.launch(&program, &launch).unwrap()
        };
        let x = upload(&*backend, &vec![2.0; COUNT]);
        let [y, z] = [0.0; 2].map(|value| upload(&*backend, &vec![value; COUNT]));
        for round in 0..4 {
            // Still at work on x when the transfer to it is queued.
            let timer = add(&x, &y, 32);
            let new = round as f32 + 4.0;
            let data = Arc::new(new.to_ne_bytes().repeat(COUNT));
            let (transfer, transfer_timer) = backend.transfer(&x, &data).unwrap();
            // The backend keeps it for as long as it reads it.
            drop(data);
            backend.join(&transfer).unwrap();
            add(&x, &z, 1);
            let name = &backend.info().platform;
            let old = if round == 0 { 2.0 } else { new - 1.0 };
            assert_eq!(download(&*backend, &y), vec![16.0 * old - 3.0; COUNT], "{name}");
            assert_eq!(download(&*backend, &z), vec![0.5 * new - 3.0; COUNT], "{name}");
            backend.finish().unwrap();
            if let (Some(before), Some(copied)) = (timer.span(), transfer_timer.span()) {
                assert!(before.end <= copied.start, "{name}: {before:?}, then {copied:?}");
                assert_eq!(transfer_timer.elapsed(), Some(copied.end - copied.start));
            }
        }
    }
}

#[test]
fn a_backend_that_is_dropped_waits_for_its_transfers() {
    for backend in backends() {
        let data = Arc::new(vec![1; 64 << 20]);
        let target = backend.allocate(data.len() as u64).unwrap();
        let (transfer, _) = backend.transfer(&target, &data).unwrap();
        backend.join(&transfer).unwrap();
        drop(target);
        drop(backend);
        assert_eq!(Arc::strong_count(&data), 1, "nobody reads it any more");
    }
}
