package healer;

import java.time.Duration;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.ValueAndTimestamp;

/** Looks at every Job of its partitions each few seconds and commands those that have been silent for too long. */
final class SilenceProcessor implements Processor<String, Json.Job, String, Json.Command> {
  static final AtomicLong SCANS = new AtomicLong();
  static final AtomicLong SCANNED_JOBS = new AtomicLong();
  static final AtomicLong SCAN_NANOS = new AtomicLong();

  private final double thresholdSeconds;
  private final Duration every;
  private ProcessorContext<String, Json.Command> context;
  private KeyValueStore<String, ValueAndTimestamp<Json.Job>> jobs;
  private KeyValueStore<String, Double> commanded;

  SilenceProcessor(double thresholdSeconds, Duration every) {
    this.thresholdSeconds = thresholdSeconds;
    this.every = every;
  }

  @Override
  public void init(ProcessorContext<String, Json.Command> given) {
    context = given;
    jobs = given.getStateStore(StreamsHealer.JOBS);
    commanded = given.getStateStore(StreamsHealer.COMMANDED);
    given.schedule(every, PunctuationType.WALL_CLOCK_TIME, this::look);
  }

  @Override
  public void process(Record<String, Json.Job> record) {}

  private void look(long nowMillis) {
    long began = System.nanoTime();
    double now = nowMillis / 1000.0;
    long looked = 0;
    try (KeyValueIterator<String, ValueAndTimestamp<Json.Job>> all = jobs.all()) {
      while (all.hasNext()) {
        KeyValue<String, ValueAndTimestamp<Json.Job>> entry = all.next();
        looked++;
        judge(entry.key, entry.value.value(), now, nowMillis);
      }
    }
    SCANS.incrementAndGet();
    SCANNED_JOBS.addAndGet(looked);
    SCAN_NANOS.addAndGet(System.nanoTime() - began);
  }

  private void judge(String key, Json.Job job, double now, long nowMillis) {
    double silence = now - job.last_loading;
    if (silence <= thresholdSeconds) {
      return;
    }
    Double told = commanded.get(key);
    if (told != null && told == job.last_loading) {
      return; // once for each silence
    }
    commanded.put(key, job.last_loading);
    Json.Command command = new Json.Command();
    command.job = key;
    command.silent_seconds = silence;
    command.decided_at = now;
    context.forward(new Record<>(key, command, nowMillis));
  }
}
